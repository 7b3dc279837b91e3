//! The tables and the statements on them.

pub mod dialect;
pub mod persistence;
