//! One connection for all clones of a barrier, made anew when it breaks or could not be made.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, RedisError, RedisResult, ScriptInvocation,
    aio::MultiplexedConnection,
};
use tokio::sync::watch;

/// Clones share the connection.
///
/// The client's own `ConnectionManager` keeps the error of a reconnect that was answered, a refused
/// password or SELECT say, and gives it to every later call.
#[derive(Clone)]
pub(crate) struct SharedConnection {
    client: Client,
    settings: AsyncConnectionConfig,
    attempt: Arc<Mutex<Option<Attempt>>>,
}

/// `None` while the connection is being made, then what came of it.
type Attempt = watch::Receiver<Option<RedisResult<MultiplexedConnection>>>;

impl SharedConnection {
    /// Connects.
    pub(crate) async fn connect(client: Client, timeout: Duration) -> RedisResult<Self> {
        // Who runs a script has a limit of its own. So an I/O error is always the connection's.
        let settings = AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(None);
        let connection = Self { client, settings, attempt: Arc::default() };
        made(&mut connection.attempt()).await?;
        Ok(connection)
    }

    /// Runs a script. One that may have been sent is not sent again: after an error its caller decides.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> RedisResult<T> {
        let mut attempt = self.attempt();
        let mut connection = made(&mut attempt).await?;
        let outcome = script.invoke_async(&mut connection).await;
        if outcome.as_ref().is_err_and(|error| error.is_io_error() || error.is_unrecoverable_error()) {
            self.forget(&attempt);
        }
        outcome
    }

    /// The attempt that all share, a new one where the last one failed. A task makes the connection, so
    /// that it comes about also where it takes longer than who asked for it waits.
    fn attempt(&self) -> Attempt {
        let mut shared = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attempt) = shared.as_ref().filter(|attempt| !is_failed(attempt)) {
            return attempt.clone();
        }
        let (sender, attempt) = watch::channel(None);
        let (client, settings) = (self.client.clone(), self.settings.clone());
        tokio::spawn(async move {
            let connection = client.get_multiplexed_async_connection_with_config(&settings).await;
            sender.send_replace(Some(connection));
        });
        shared.insert(attempt).clone()
    }

    /// Lets the next call connect anew, unless another one did already.
    fn forget(&self, broken: &Attempt) {
        let mut shared = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.as_ref().is_some_and(|attempt| attempt.same_channel(broken)) {
            *shared = None;
        }
    }
}

async fn made(attempt: &mut Attempt) -> RedisResult<MultiplexedConnection> {
    let made = attempt.wait_for(Option::is_some).await.ok().and_then(|made| made.clone());
    made.unwrap_or_else(|| Err(RedisError::from(io::Error::from(io::ErrorKind::ConnectionAborted))))
}

/// Whether no connection comes of it: there was an error, or its task ended with its runtime.
fn is_failed(attempt: &Attempt) -> bool {
    let is_over = attempt.has_changed().is_err();
    attempt.borrow().as_ref().map_or(is_over, Result::is_err)
}
