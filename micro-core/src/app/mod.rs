//! The life cycle of a process: components start, instances are announced last and withdrawn
//! first, work drains within a deadline.

mod probe;
mod run;

pub use probe::{Ping, Probe, ProbeConfig};
pub use run::{App, AppBuilder, AppConfig, RunningApp};

use std::time::Duration;

use async_trait::async_trait;

use crate::{Health, Result, registry::Instance};

/// Something an application runs: a server, a consumer, a relay, a pool.
///
/// Components start in the order they were added and stop in the reverse order, phase by phase.
#[async_trait]
pub trait Component: Send + Sync + 'static {
    /// Its name in logs, health and errors.
    fn name(&self) -> &str;

    /// Becomes ready; returns when it is. What goes on runs in tasks of its own. `health` is where
    /// it says whether it can do its work.
    async fn start(&self, health: &Health) -> Result<()>;

    /// The instances to announce once every component has started.
    fn instances(&self) -> Vec<Instance>;

    /// Takes no new work and finishes what is in hand, at most for `deadline`.
    async fn drain(&self, deadline: Duration) -> Result<()>;

    /// Hands on what it still holds (buffers, spans), at most for `deadline`.
    async fn flush(&self, deadline: Duration) -> Result<()>;

    /// Ends every task and frees every resource.
    async fn close(&self) -> Result<()>;
}
