//! What was logged while a test ran.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tracing::{
    Dispatch, Level, Subscriber,
    subscriber::{DefaultGuard, NoSubscriber},
};

/// What was logged; clones share it.
///
/// # Examples
///
/// ```
/// # use micro_testkit::Logged;
/// let logged = Logged::default();
/// let listening = logged.here(tracing::Level::WARN);
/// tracing::warn!(count = 1, "not quite");
/// tracing::info!("not worth a line");
/// drop(listening);
/// assert_eq!(logged.lines().len(), 1);
/// assert!(logged.text().contains("not quite count=1"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    /// Writes down what this thread logs of `level` and above until the guard is dropped. Other threads
    /// are not heard: have the test's runtime be of the current thread.
    #[must_use = "it listens until this is dropped"]
    pub fn here(&self, level: Level) -> DefaultGuard {
        // While there is but one, another thread, of which nobody listens, decides for this one too
        // whether a line is wanted: https://github.com/tokio-rs/tracing/issues/2874
        static SECOND: OnceLock<Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| Dispatch::new(NoSubscriber::new()));
        tracing::subscriber::set_default(self.subscriber(level))
    }

    /// What writes down here what is logged to it.
    pub fn subscriber(&self, level: Level) -> impl Subscriber + Send + Sync + use<> {
        let logged = self.clone();
        let subscriber = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
        subscriber.with_writer(move || Writer(logged.clone())).finish()
    }

    /// All of it, a line each.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// The lines.
    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer(Logged);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.bytes().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
