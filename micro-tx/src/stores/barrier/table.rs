//! The barrier's table: its name, and how it is created as DTM's scripts create it.

use micro_core::{Error, ErrorKind, Result};

use crate::{database::SqlDatabase, dialect::Dialect, error::to_deployer};

/// The longest name of a schema or table, in bytes: PostgreSQL's, and one less than MySQL's.
const NAME_BYTES_MAX: usize = 63;

/// The name of a barrier's table, `table` or `schema.table`, that can stand in a statement.
#[derive(Clone, Debug)]
pub(super) struct Table {
    schema: Option<String>,
    name: String,
    quoted: String,
}

impl Table {
    /// # Errors
    ///
    /// `InvalidArgument` for anything but one or two names of letters, digits, `_`, `-` and `$`.
    pub(super) fn new(dialect: Dialect, table: &str) -> Result<Self> {
        let is_name = |name: &&str| {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'$');
            (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed)
        };
        let names: Vec<&str> = table.split('.').collect();
        if names.len() > 2 || !names.iter().all(is_name) {
            let message = "a barrier's table is TABLE or SCHEMA.TABLE, each of letters, digits, _, - and $, at most 63";
            return Err(Error::new(ErrorKind::InvalidArgument, "barrier.table", message)
                .with_context("table", table.escape_debug()));
        }
        // Without quotes, as other clients write it, PostgreSQL reads small letters.
        let names = names.into_iter().map(|name| match dialect {
            Dialect::Postgres => name.to_ascii_lowercase(),
            Dialect::Sqlite | Dialect::MySql => name.to_owned(),
        });
        let mut names: Vec<String> = names.collect();
        let quoted: Vec<String> = names.iter().map(|name| quoted(dialect, name)).collect();
        let name = names.pop().expect("a text that is split has a part");
        Ok(Self { schema: names.pop(), name, quoted: quoted.join(".") })
    }

    /// As it stands in statements. No name has a quote in it, or a `?`.
    pub(super) fn quoted(&self) -> &str {
        &self.quoted
    }

    /// Creates it where it is missing.
    pub(super) async fn create(&self, database: &SqlDatabase) -> Result<()> {
        // Looked up first: who may use the table need not be allowed to create one.
        if !self.exists(database).await? {
            let script = self.script(database.dialect(), self.key(database).await?);
            let created = database.execute_script(&script).await;
            // Another process can have been faster; PostgreSQL's IF NOT EXISTS does not wait for it.
            if let Err(error) = created
                && !self.exists(database).await?
            {
                let message = "the database's user may not create this table: create it by hand, or name one in \
                               the service's own schema";
                let error = to_deployer("barrier.create_table", message, error);
                return Err(error.with_context("table", &self.quoted));
            }
        }
        self.check_key(database).await
    }

    async fn exists(&self, database: &SqlDatabase) -> Result<bool> {
        let select = match database.dialect() {
            Dialect::Sqlite => {
                let schema = self.schema.as_ref().map(|name| quoted(Dialect::Sqlite, name) + ".").unwrap_or_default();
                format!("SELECT count(*) FROM {schema}sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE")
            }
            Dialect::MySql => format!(
                "SELECT count(*) FROM information_schema.tables WHERE table_schema = {} AND table_name = ?",
                self.mysql_schema()
            ),
            Dialect::Postgres => "SELECT count(to_regclass(?))".to_owned(),
        };
        let name = match database.dialect() {
            Dialect::Postgres => &self.quoted,
            Dialect::Sqlite | Dialect::MySql => &self.name,
        };
        let row = database.fetch_optional(&select, &[name.as_str().into()]).await?;
        row.map_or(Ok(false), |row| Ok(row.get::<i64>(0)? > 0))
    }

    /// What names the unique key: DTM's Go client needs its name on PostgreSQL, where a schema has only one
    /// of a name.
    async fn key(&self, database: &SqlDatabase) -> Result<&'static str> {
        if database.dialect() != Dialect::Postgres {
            return Ok("");
        }
        let schema = self.schema.as_ref().map(|name| quoted(Dialect::Postgres, name) + ".").unwrap_or_default();
        let name = format!("{schema}uniq_barrier");
        let row = database.fetch_optional("SELECT count(to_regclass(?))", &[name.into()]).await?;
        let is_taken = row.map_or(Ok(false), |row| row.get::<i64>(0).map(|count| count > 0))?;
        Ok(if is_taken { "" } else { "CONSTRAINT uniq_barrier " })
    }

    /// PostgreSQL and SQLite refuse an insert without the key it names; MySQL takes every row.
    async fn check_key(&self, database: &SqlDatabase) -> Result<()> {
        if database.dialect() != Dialect::MySql {
            return Ok(());
        }
        let select = format!(
            "SELECT group_concat(column_name ORDER BY seq_in_index) FROM information_schema.statistics \
             WHERE table_schema = {} AND table_name = ? AND non_unique = 0 GROUP BY index_name",
            self.mysql_schema()
        );
        for row in database.fetch_all(&select, &[self.name.as_str().into()]).await? {
            let columns: String = row.get(0)?;
            let mut columns: Vec<_> = columns.split(',').map(str::to_ascii_lowercase).collect();
            columns.sort_unstable();
            if columns == ["barrier_id", "branch_id", "gid", "op"] {
                return Ok(());
            }
        }
        let message = "the barrier's table needs a unique key of gid, branch_id, op and barrier_id";
        Err(Error::new(ErrorKind::FailedPrecondition, "barrier.create_table", message)
            .with_context("table", &self.quoted))
    }

    fn mysql_schema(&self) -> String {
        self.schema.as_ref().map_or_else(|| "DATABASE()".to_owned(), |schema| format!("'{schema}'"))
    }

    /// DTM's columns and widths. Beyond its scripts: texts are compared by their bytes, so that two ids
    /// of different case are two on MySQL as well, and rows have a time on PostgreSQL too.
    fn script(&self, dialect: Dialect, key: &str) -> String {
        let Self { schema, quoted: table, .. } = self;
        let schema = match (dialect, schema) {
            (Dialect::Sqlite, _) | (_, None) => String::new(),
            (Dialect::MySql, Some(schema)) => format!("CREATE DATABASE IF NOT EXISTS {};", quoted(dialect, schema)),
            (Dialect::Postgres, Some(schema)) => format!("CREATE SCHEMA IF NOT EXISTS {};", quoted(dialect, schema)),
        };
        let create = match dialect {
            Dialect::Sqlite => include_str!("sqlite.sql"),
            Dialect::MySql => include_str!("mysql.sql"),
            Dialect::Postgres => include_str!("postgres.sql"),
        };
        schema + "\n" + &create.replace("{table}", table).replace("{key}", key)
    }
}

fn quoted(dialect: Dialect, name: &str) -> String {
    match dialect {
        Dialect::MySql => format!("`{name}`"),
        Dialect::Sqlite | Dialect::Postgres => format!("\"{name}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_quoted_as_its_database_reads_it_without_quotes() {
        for (dialect, name, quoted) in [
            (Dialect::MySql, "products.barrier", "`products`.`barrier`"),
            (Dialect::MySql, "order.barrier", "`order`.`barrier`"),
            (Dialect::MySql, "order-service.Barrier", "`order-service`.`Barrier`"),
            (Dialect::Postgres, "dtm_barrier.Barrier", "\"dtm_barrier\".\"barrier\""),
            (Dialect::Sqlite, "barrier", "\"barrier\""),
        ] {
            assert_eq!(Table::new(dialect, name).unwrap().quoted(), quoted);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "b".repeat(NAME_BYTES_MAX + 1);
        for name in ["", ".", "a.", ".b", "a.b.c", "a b", "a;DROP TABLE orders;--", "a`b", "a\"b", "a?b", "a'b", &long]
        {
            let error = Table::new(Dialect::MySql, name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}");
            assert!(error.to_string().contains("SCHEMA.TABLE"), "{error}");
        }
    }
}
