//! PostgreSQL by sqlx: the session, how values are bound, and how columns are read.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use bytes::Bytes;
use micro_core::{Error, ErrorKind, Result};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Encode, Executor as _, PgConnection, Postgres,
    Row as _, SqlSafeStr as _, SqlStr, Type, TypeInfo as _, ValueRef as _,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgArguments, PgConnectOptions, PgRow, PgTransactionManager, PgTypeInfo, types::Oid},
};
use sqlx_core::transaction::TransactionManager as _;

use crate::{
    config::{PREPARED_COUNT_MAX, SqlConfig, redacted},
    dialect::Dialect,
    row::Row,
    server::{Driver, ServerTx, Session},
    value::Value,
};

/// An open transaction on PostgreSQL. Dropped, it is rolled back by a spawned task; without a
/// runtime its connection is closed, which undoes it too.
pub struct PostgresTx(pub(crate) ServerTx<Postgres>);

impl Driver for Postgres {
    const DIALECT: Dialect = Dialect::Postgres;

    fn options(config: &SqlConfig) -> Result<PgConnectOptions> {
        // sqlx's error is left out: it would repeat parts of the URL.
        let options = PgConnectOptions::from_str(&config.url).map_err(|_| {
            let message = "the URL is not one of PostgreSQL: postgres://USER:PASSWORD@HOST:PORT/DATABASE";
            Error::new(ErrorKind::InvalidArgument, "sql.connect", message).with_context("url", redacted(&config.url))
        })?;
        Ok(options.disable_statement_logging().statement_cache_capacity(PREPARED_COUNT_MAX))
    }

    fn address(options: &PgConnectOptions) -> String {
        match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    }

    async fn connect(options: &PgConnectOptions, session: &Session) -> Result<PgConnection, sqlx::Error> {
        let mut connection = options.connect().await?;
        // By a statement and not among the options of the start, which some proxies refuse.
        let script = format!(
            "SET TimeZone = 'UTC'; SET statement_timeout = {}; SET lock_timeout = {}",
            session.statement_timeout.as_millis().max(1),
            session.lock_timeout.as_millis().max(1),
        );
        Self::script(&mut connection, &script).await?;
        Ok(connection)
    }

    async fn unfit(_connection: &mut PgConnection) -> Result<Option<&'static str>, sqlx::Error> {
        // Each session commits what is executed by itself.
        Ok(None)
    }

    fn ends_after_silence(limit: Duration) -> String {
        let (millis, seconds) = (limit.as_millis().max(1), (limit.as_secs() / 3).max(1));
        // By TCP as well: while an answer cannot be sent nothing is idle, and versions before 14 have
        // no limit for a session outside of a transaction. On a socket of Unix these say nothing.
        format!(
            "SELECT set_config(name, text, false) FROM (VALUES ('idle_session_timeout', '{millis}'), \
             ('idle_in_transaction_session_timeout', '{millis}'), ('tcp_user_timeout', '{millis}'), \
             ('tcp_keepalives_idle', '{seconds}'), ('tcp_keepalives_interval', '{seconds}'), \
             ('tcp_keepalives_count', '2')) AS wanted (name, text) JOIN pg_settings USING (name)"
        )
    }

    async fn begin(connection: &mut PgConnection, _is_set_up: bool) -> Result<(), sqlx::Error> {
        // Said each time, for a server or a pool may be set to another level: it costs nothing.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        PgTransactionManager::begin(connection, Some(begin.into_sql_str())).await
    }

    async fn commit(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        PgTransactionManager::commit(connection).await
    }

    async fn rollback(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        PgTransactionManager::rollback(connection).await
    }

    fn depth(connection: &PgConnection) -> usize {
        PgTransactionManager::get_transaction_depth(connection)
    }

    async fn script(connection: &mut PgConnection, script: &str) -> Result<(), sqlx::Error> {
        connection.execute(sqlx::raw_sql(AssertSqlSafe(script))).await.map(drop)
    }

    async fn execute(
        connection: &mut PgConnection,
        statement: SqlStr,
        arguments: PgArguments,
        is_kept: bool,
    ) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_with(statement, arguments).persistent(is_kept);
        connection.execute(query).await.map(|done| done.rows_affected())
    }

    async fn fetch_all(
        connection: &mut PgConnection,
        statement: SqlStr,
        arguments: PgArguments,
        is_kept: bool,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let query = sqlx::query_with(statement, arguments).persistent(is_kept);
        read_all(&connection.fetch_all(query).await?)
    }

    fn arguments(values: &[Value]) -> Result<PgArguments, sqlx::Error> {
        let mut arguments = PgArguments::default();
        arguments.reserve(values.len(), values.iter().map(|value| value.size() + 4).sum());
        for value in values {
            let added = match value {
                Value::Null => arguments.add(Null),
                Value::Integer(number) => arguments.add(*number),
                Value::Real(number) => arguments.add(*number),
                Value::Text(text) => arguments.add(text.as_str()),
                Value::Blob(bytes) => arguments.add(&bytes[..]),
            };
            added.map_err(sqlx::Error::Encode)?;
        }
        Ok(arguments)
    }
}

/// NULL, of the type that the statement expects at its place.
struct Null;

impl Type<Postgres> for Null {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Null {
    fn encode_by_ref(&self, _buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Ok(IsNull::Yes)
    }
}

/// How a column is read.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Short,
    Int,
    Long,
    Float,
    Double,
    Numeric,
    Text,
    JsonBinary,
    Blob,
    Unreadable,
}

fn read_all(rows: &[PgRow]) -> Result<Vec<Row>, sqlx::Error> {
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let columns: Arc<[String]> = first.columns().iter().map(|column| column.name().to_owned()).collect();
    let kinds: Vec<Kind> = first.columns().iter().map(|column| kind(column.type_info())).collect();
    let read = |row: &PgRow| {
        let values = kinds.iter().enumerate().map(|(index, kind)| read_value(row, index, *kind));
        Ok(Row::new(columns.clone(), values.collect::<Result<_, sqlx::Error>>()?))
    };
    rows.iter().map(read).collect()
}

fn kind(type_info: &PgTypeInfo) -> Kind {
    match type_info.name() {
        "BOOL" => Kind::Bool,
        "INT2" => Kind::Short,
        "INT4" => Kind::Int,
        "INT8" => Kind::Long,
        "FLOAT4" => Kind::Float,
        "FLOAT8" => Kind::Double,
        "NUMERIC" => Kind::Numeric,
        "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "JSON" | "UNKNOWN" => Kind::Text,
        "JSONB" => Kind::JsonBinary,
        "BYTEA" => Kind::Blob,
        _ => Kind::Unreadable,
    }
}

fn read_value(row: &PgRow, index: usize, kind: Kind) -> Result<Value, sqlx::Error> {
    if row.try_get_raw(index)?.is_null() {
        return Ok(Value::Null);
    }
    Ok(match kind {
        Kind::Bool => Value::Integer(row.try_get_unchecked::<bool, _>(index)?.into()),
        Kind::Short => Value::Integer(row.try_get_unchecked::<i16, _>(index)?.into()),
        Kind::Int => Value::Integer(row.try_get_unchecked::<i32, _>(index)?.into()),
        Kind::Long => Value::Integer(row.try_get_unchecked(index)?),
        Kind::Float => Value::Real(row.try_get_unchecked::<f32, _>(index)?.into()),
        Kind::Double => Value::Real(row.try_get_unchecked(index)?),
        Kind::Numeric => numeric(row.try_get_unchecked(index)?)?,
        Kind::Text => Value::Text(row.try_get_unchecked(index)?),
        Kind::JsonBinary => {
            // A byte of its version stands before the text.
            let bytes: &[u8] = row.try_get_unchecked(index)?;
            let text = std::str::from_utf8(bytes.get(1..).unwrap_or_default());
            Value::Text(text.map_err(|error| sqlx::Error::Decode(error.into()))?.to_owned())
        }
        Kind::Blob => Value::Blob(Bytes::from(row.try_get_unchecked::<Vec<u8>, _>(index)?)),
        Kind::Unreadable => {
            let column = row.column(index);
            let text = format!("cast the column {} of type {} to bigint or text", column.name(), column.type_info());
            return Err(sqlx::Error::Decode(text.into()));
        }
    })
}

/// What sum answers for a bigint: a whole number where it is one. The format: four 16-bit numbers,
/// count of digits, weight of the first, sign and scale, then digits to the base of 10,000.
fn numeric(bytes: &[u8]) -> Result<Value, sqlx::Error> {
    let invalid = || sqlx::Error::Decode("no numeric that is a number".into());
    let words: Vec<i16> = bytes.chunks_exact(2).map(|word| i16::from_be_bytes([word[0], word[1]])).collect();
    let [_, weight, sign, _, digits @ ..] = words.as_slice() else { return Err(invalid()) };
    let is_negative = match *sign {
        0 => false,
        0x4000 => true,
        _ => return Err(invalid()),
    };
    let mut whole = Some(0_i64);
    let mut real = 0_f64;
    for (digit, exponent) in digits.iter().zip((i32::from(i16::MIN)..=i32::from(*weight)).rev()) {
        real += f64::from(*digit) * 10_000_f64.powi(exponent);
        whole = match u32::try_from(exponent) {
            Ok(exponent) => whole
                .and_then(|whole| 10_000_i64.checked_pow(exponent)?.checked_mul(i64::from(*digit))?.checked_add(whole)),
            Err(_) => None,
        };
    }
    let value = whole.map(|whole| Value::Integer(if is_negative { -whole } else { whole }));
    Ok(value.unwrap_or(Value::Real(if is_negative { -real } else { real })))
}
