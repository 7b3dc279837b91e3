//! Each promise of a layer, by its name.

mod deadline;
mod flows;
mod metrics;
mod recover;
mod retry;
mod stack;
mod trace;

mod mock;
mod recorder;
mod spans;
