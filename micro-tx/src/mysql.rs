//! MySQL and MariaDB by sqlx: the session, how values are bound, and how columns are read.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use bytes::Bytes;
use micro_core::{Error, ErrorKind, Result};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Executor as _, MySql, MySqlConnection, Row as _,
    SqlSafeStr as _, SqlStr, Type, TypeInfo as _, ValueRef as _,
    mysql::{MySqlArguments, MySqlConnectOptions, MySqlRow, MySqlTransactionManager, MySqlTypeInfo},
};
use sqlx_core::transaction::TransactionManager as _;

use crate::{
    config::{PREPARED_COUNT_MAX, SqlConfig, redacted},
    dialect::Dialect,
    row::Row,
    server::{Driver, ServerTx, Session},
    value::Value,
};

/// An open transaction on MySQL or MariaDB. Dropped, it is rolled back by a spawned task; without a
/// runtime its connection is closed, which undoes it too.
pub struct MySqlTx(pub(crate) ServerTx<MySql>);

impl Driver for MySql {
    const DIALECT: Dialect = Dialect::MySql;

    fn options(config: &SqlConfig) -> Result<MySqlConnectOptions> {
        // sqlx's error is left out: it would repeat parts of the URL.
        let options = MySqlConnectOptions::from_str(&config.url).map_err(|_| {
            let message = "the URL is not one of MySQL: mysql://USER:PASSWORD@HOST:PORT/DATABASE";
            Error::new(ErrorKind::InvalidArgument, "sql.connect", message).with_context("url", redacted(&config.url))
        })?;
        Ok(options.disable_statement_logging().statement_cache_capacity(PREPARED_COUNT_MAX))
    }

    fn address(options: &MySqlConnectOptions) -> String {
        match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    }

    async fn connect(options: &MySqlConnectOptions, session: &Session) -> Result<MySqlConnection, sqlx::Error> {
        let mut connection = options.connect().await?;
        // READ COMMITTED: with REPEATABLE READ two inserts of neighbouring keys lock each other's
        // gap. No max_statement_time, which would hold for COMMIT too: see `Dialect::read_limit`. What the
        // server or its init_connect sets would undo what is acknowledged, or begin another transaction
        // with each commit.
        let script = format!(
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
             SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO'), \
             SESSION innodb_lock_wait_timeout = {}, SESSION autocommit = 1, SESSION completion_type = 'NO_CHAIN' \
             /*M!100102 , SESSION max_statement_time = 0 */",
            session.lock_timeout.as_secs().max(1),
        );
        Self::script(&mut connection, &script).await?;
        Ok(connection)
    }

    async fn unfit(connection: &mut MySqlConnection) -> Result<Option<&'static str>, sqlx::Error> {
        let fit = "SELECT @@autocommit = 1 AND @@completion_type = 'NO_CHAIN'";
        let is_fit: i64 = sqlx::query_scalar(fit).persistent(false).fetch_one(connection).await?;
        let message = "the pool's sessions do not commit each statement, or chain transactions: SET autocommit = 1, \
                       completion_type = 'NO_CHAIN' in its after_connect";
        Ok((is_fit != 1).then_some(message))
    }

    fn ends_after_silence(limit: Duration) -> String {
        // The second one is how long it tries to send an answer to somebody who is not there.
        let seconds = limit.as_secs().max(1);
        format!("SET SESSION wait_timeout = {seconds}, SESSION net_write_timeout = {seconds}")
    }

    async fn begin(connection: &mut MySqlConnection, is_set_up: bool) -> Result<(), sqlx::Error> {
        if is_set_up {
            return MySqlTransactionManager::begin(connection, Some("BEGIN".into_sql_str())).await;
        }
        let begin = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; BEGIN";
        MySqlTransactionManager::begin(connection, Some(begin.into_sql_str())).await
    }

    async fn commit(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
        MySqlTransactionManager::commit(connection).await
    }

    async fn rollback(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
        MySqlTransactionManager::rollback(connection).await
    }

    fn depth(connection: &MySqlConnection) -> usize {
        MySqlTransactionManager::get_transaction_depth(connection)
    }

    async fn script(connection: &mut MySqlConnection, script: &str) -> Result<(), sqlx::Error> {
        connection.execute(sqlx::raw_sql(AssertSqlSafe(script))).await.map(drop)
    }

    async fn execute(
        connection: &mut MySqlConnection,
        statement: SqlStr,
        arguments: MySqlArguments,
        is_kept: bool,
    ) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_with(statement, arguments).persistent(is_kept);
        connection.execute(query).await.map(|done| done.rows_affected())
    }

    async fn fetch_all(
        connection: &mut MySqlConnection,
        statement: SqlStr,
        arguments: MySqlArguments,
        is_kept: bool,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let query = sqlx::query_with(statement, arguments).persistent(is_kept);
        read_all(&connection.fetch_all(query).await?)
    }

    fn arguments(values: &[Value]) -> Result<MySqlArguments, sqlx::Error> {
        let mut arguments = MySqlArguments::default();
        arguments.reserve(values.len(), values.iter().map(Value::size).sum());
        for value in values {
            let added = match value {
                Value::Null => arguments.add(None::<i64>),
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

/// How a column is read.
#[derive(Clone, Copy)]
enum Kind {
    Signed,
    Unsigned,
    Float,
    Double,
    Decimal,
    Text,
    Blob,
    Unreadable,
}

fn read_all(rows: &[MySqlRow]) -> Result<Vec<Row>, sqlx::Error> {
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let columns: Arc<[String]> = first.columns().iter().map(|column| column.name().to_owned()).collect();
    let kinds: Vec<Kind> = first.columns().iter().map(|column| kind(column.type_info())).collect();
    let read = |row: &MySqlRow| {
        let values = kinds.iter().enumerate().map(|(index, kind)| read_value(row, index, *kind));
        Ok(Row::new(columns.clone(), values.collect::<Result<_, sqlx::Error>>()?))
    };
    rows.iter().map(read).collect()
}

fn kind(type_info: &MySqlTypeInfo) -> Kind {
    match type_info.name() {
        "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => Kind::Signed,
        "YEAR" => Kind::Unsigned,
        name if name.ends_with(" UNSIGNED") => Kind::Unsigned,
        "FLOAT" => Kind::Float,
        "DOUBLE" => Kind::Double,
        "DECIMAL" => Kind::Decimal,
        "JSON" | "ENUM" | "SET" => Kind::Text,
        // By the character set: a text in a binary collation carries the flag of bytes as well.
        _ if <str as Type<MySql>>::compatible(type_info) => Kind::Text,
        _ if <[u8] as Type<MySql>>::compatible(type_info) => Kind::Blob,
        _ => Kind::Unreadable,
    }
}

fn read_value(row: &MySqlRow, index: usize, kind: Kind) -> Result<Value, sqlx::Error> {
    if row.try_get_raw(index)?.is_null() {
        return Ok(Value::Null);
    }
    Ok(match kind {
        Kind::Signed => Value::Integer(row.try_get_unchecked(index)?),
        Kind::Unsigned => Value::Integer(unsigned(row.try_get_unchecked(index)?)?),
        Kind::Float => Value::Real(row.try_get_unchecked::<f32, _>(index)?.into()),
        Kind::Double => Value::Real(row.try_get_unchecked(index)?),
        Kind::Decimal => decimal(row.try_get_unchecked(index)?)?,
        Kind::Text => Value::Text(row.try_get_unchecked(index)?),
        Kind::Blob => Value::Blob(Bytes::from(row.try_get_unchecked::<Vec<u8>, _>(index)?)),
        Kind::Unreadable => {
            let column = row.column(index);
            let text =
                format!("cast the column {} of type {} to a number or a text", column.name(), column.type_info());
            return Err(sqlx::Error::Decode(text.into()));
        }
    })
}

fn unsigned(number: u64) -> Result<i64, sqlx::Error> {
    i64::try_from(number).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// What SUM answers: a whole number where it is one.
fn decimal(text: &str) -> Result<Value, sqlx::Error> {
    let whole =
        text.split_once('.').map_or(text, |(whole, rest)| if rest.bytes().all(|b| b == b'0') { whole } else { text });
    if let Ok(number) = whole.parse() {
        return Ok(Value::Integer(number));
    }
    text.parse().map(Value::Real).map_err(|_| sqlx::Error::Decode("no decimal number".into()))
}
