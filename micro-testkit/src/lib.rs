//! micro-testkit.
