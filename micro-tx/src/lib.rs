//! micro-tx.
