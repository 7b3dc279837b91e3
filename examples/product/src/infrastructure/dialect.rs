//! What differs between the databases that the service runs on.

use micro_tx::SqlDatabase;

/// The SQL that a database speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite's.
    Sqlite,
    /// MySQL's and MariaDB's.
    MySql,
    /// PostgreSQL's.
    Postgres,
}

impl Dialect {
    /// The SQL that this database speaks.
    pub fn of(database: &SqlDatabase) -> Self {
        match database.dialect_name() {
            "mysql" => Self::MySql,
            "postgres" => Self::Postgres,
            _ => Self::Sqlite,
        }
    }

    /// The service's tables: one plain script per database, which ships with it. Running it again
    /// changes nothing.
    pub const fn schema(self) -> &'static str {
        match self {
            Self::Sqlite => include_str!("schema/sqlite.sql"),
            Self::MySql => include_str!("schema/mysql.sql"),
            Self::Postgres => include_str!("schema/postgres.sql"),
        }
    }

    /// What makes a SELECT lock the rows it reads. SQLite has one writer, whose transaction locks
    /// everything from its beginning.
    pub(super) const fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::MySql | Self::Postgres => "FOR UPDATE",
        }
    }

    /// A `?` that takes a decimal as its text: PostgreSQL alone does not turn one into the other
    /// unasked.
    pub(super) const fn decimal_value(self) -> &'static str {
        match self {
            Self::Postgres => "CAST(? AS NUMERIC)",
            Self::Sqlite | Self::MySql => "?",
        }
    }
}
