//! micro-rs.
