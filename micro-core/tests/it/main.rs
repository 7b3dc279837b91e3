//! The integration tests of micro-core, in one binary.

mod does_not_compile;
mod run_is_spawnable;
