//! The ports of the domain on SQL.

pub mod persistence;
pub mod schema;
