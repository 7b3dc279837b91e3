//! The integration tests of micro-core, in one binary.

mod run_is_spawnable;
