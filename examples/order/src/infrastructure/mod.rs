//! The tables and the statements on them, and the other services that are called.

pub mod deduction;
pub mod dialect;
pub mod persistence;
