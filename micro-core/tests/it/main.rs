//! The integration tests of micro-core, in one binary.

mod broker;
mod codec;
mod does_not_compile;
mod registry;
mod run_is_spawnable;
mod selector;
