//! Signals, for programs that ask for them: the framework installs no handler by itself.

use micro_core::{Error, ErrorKind, Result};

/// Resolves at SIGTERM or SIGINT (elsewhere than on Unix: Ctrl-C).
///
/// The handlers are installed when this is called, not when it is awaited, so that a signal in
/// between is not lost.
///
/// # Errors
///
/// `Internal` when the handlers cannot be installed.
pub fn termination() -> Result<impl Future<Output = ()> + Send> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(not_installed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(not_installed)?;
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    Ok(async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(%error, "no handler for Ctrl-C");
            std::future::pending::<()>().await;
        }
    })
}

#[cfg(unix)]
fn not_installed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "signals.termination", "the signal handler cannot be installed").with_source(error)
}
