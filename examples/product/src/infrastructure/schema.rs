//! The tables: one plain script per database, which ships with the service.

/// The tables on SQLite. Running it again changes nothing.
pub const SQLITE: &str = include_str!("schema/sqlite.sql");
