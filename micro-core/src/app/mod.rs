//! The life cycle of a process: components start, instances are announced last and withdrawn
//! first, work drains within a deadline.

mod probe;
mod run;

pub use probe::{Ping, Probe, ProbeConfig};
pub use run::{App, AppBuilder, AppConfig, RunningApp};

use std::time::{Duration, Instant};

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

/// For a program that has a life cycle of its own, and runs components without an [`App`].
pub trait ComponentExt: Component {
    /// Drains, flushes and closes, all of it at most for `limit` if the component keeps its
    /// deadlines: what [`App`] does at the end.
    ///
    /// # Errors
    ///
    /// The first that happens. It is closed all the same.
    fn stop(&self, limit: Duration) -> impl Future<Output = Result<()>> + Send {
        async move {
            let end = Instant::now() + limit;
            let drained = self.drain(limit).await;
            let flushed = self.flush(end.saturating_duration_since(Instant::now())).await;
            let closed = self.close().await;
            drained.and(flushed).and(closed)
        }
    }
}

impl<C: Component + ?Sized> ComponentExt for C {}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{Error, ErrorKind};

    /// Says what it was asked for, and fails to drain.
    #[derive(Default)]
    struct Stubborn(Mutex<Vec<&'static str>>);

    #[async_trait]
    impl Component for Stubborn {
        fn name(&self) -> &str {
            "stubborn"
        }

        async fn start(&self, _health: &Health) -> Result<()> {
            Ok(())
        }

        fn instances(&self) -> Vec<Instance> {
            Vec::new()
        }

        async fn drain(&self, deadline: Duration) -> Result<()> {
            self.0.lock().unwrap().push("drain");
            tokio::time::sleep(deadline).await;
            Err(Error::new(ErrorKind::DeadlineExceeded, "stubborn.drain", "work is left"))
        }

        async fn flush(&self, deadline: Duration) -> Result<()> {
            self.0.lock().unwrap().push("flush");
            assert_eq!(deadline, Duration::ZERO, "the drain took it all");
            Ok(())
        }

        async fn close(&self) -> Result<()> {
            self.0.lock().unwrap().push("close");
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_cannot_be_drained_is_closed_all_the_same() {
        let stubborn = Stubborn::default();
        let component: &dyn Component = &stubborn;
        let error = component.stop(Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.operation(), "stubborn.drain");
        assert_eq!(*stubborn.0.lock().unwrap(), ["drain", "flush", "close"]);
    }
}
