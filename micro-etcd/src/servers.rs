//! The servers of a cluster: a connection to each that was needed, and which one is asked.
//!
//! etcd's client balances over its servers, and gives out the failures of those that are away: so each
//! has a client of its own here.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use etcd_client::{ConnectOptions, KvClient, LeaseClient, WatchClient};
use micro_core::{Error, ErrorKind, Result};
use tokio::{net::TcpStream, sync::OnceCell};

use crate::{EtcdConfig, error, limits::ANSWER_BYTES_MAX};

const CONNECT: &str = "registry.connect";

pub(crate) struct Servers {
    connections: Vec<Slot>,
    /// The one that answered last.
    current: AtomicUsize,
}

/// Of one server: empty until it is needed, and another one once etcd's users changed.
type Slot = Mutex<Arc<OnceCell<Connection>>>;

/// What one server can be asked, as who one was when it was made. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connection {
    /// The same for its clones alone.
    mark: Arc<()>,
    pub(crate) kv: KvClient,
    pub(crate) lease: LeaseClient,
    pub(crate) watch: WatchClient,
}

impl Servers {
    /// The first one at which something listens is the current one.
    ///
    /// # Errors
    ///
    /// `Unavailable` with the system's cause: etcd's client tries again for ever, and tells none.
    pub(crate) async fn reach(config: &EtcdConfig) -> Result<Self> {
        let mut last: Option<io::Error> = None;
        for (index, server) in config.servers.iter().enumerate() {
            match TcpStream::connect(server).await {
                Ok(_) => {
                    let connections = config.servers.iter().map(|_| Slot::default()).collect();
                    return Ok(Self { connections, current: AtomicUsize::new(index) });
                }
                Err(cause) => last = Some(cause),
            }
        }
        let message = "no etcd server answers: start one there, or correct the address";
        let error = Error::new(ErrorKind::Unavailable, CONNECT, message);
        Err(match last {
            Some(cause) => error.with_source(cause),
            None => error,
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.connections.len()
    }

    /// The index of the one to ask.
    pub(crate) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Asks the one behind `failed` from now on, unless somebody saw to it already.
    pub(crate) fn leave(&self, failed: usize) {
        let next = (failed + 1) % self.count();
        let _ = self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) async fn connection(&self, config: &EtcdConfig, index: usize) -> Result<Connection> {
        let slot = self.slot(index).clone();
        slot.get_or_try_init(|| Connection::new(config, &config.servers[index])).await.cloned()
    }

    /// Whoever needs a connection next makes another one, unless somebody saw to it already. Watches
    /// that are open on this one go on.
    pub(crate) fn forget(&self, index: usize, outdated: &Connection) {
        let mut slot = self.slot(index);
        if slot.get().is_some_and(|connection| Arc::ptr_eq(&connection.mark, &outdated.mark)) {
            *slot = Arc::default();
        }
    }

    fn slot(&self, index: usize) -> std::sync::MutexGuard<'_, Arc<OnceCell<Connection>>> {
        self.connections[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    async fn new(config: &EtcdConfig, server: &str) -> Result<Self> {
        let client = match authenticated(config, server, config.user.as_deref()).await {
            // A server without authentication takes no user, and needs none until it is switched on.
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => authenticated(config, server, None).await?,
            outcome => outcome?,
        };
        Ok(Self {
            mark: Arc::default(),
            kv: client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX),
        })
    }
}

async fn authenticated(config: &EtcdConfig, server: &str, user: Option<&str>) -> Result<etcd_client::Client> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(config.connect_timeout)
        // Only while something is open on it: etcd closes a connection that is idle and sends pings.
        // Source: etcd 3.5, `embed/etcd.go`, `PermitWithoutStream`.
        .with_keep_alive(config.keepalive_interval, config.keepalive_timeout)
        .with_keep_alive_while_idle(false)
        // A member that lost the others would let a watch be silent for ever.
        .with_require_leader(true)
        // A restarted server knows no tokens.
        .with_auto_token_refresh(true);
    if let Some(user) = user {
        options = options.with_user(user, config.password.as_deref().unwrap_or_default());
    }
    let options = with_tls(options, config)?;
    let scheme = if config.tls { "https" } else { "http" };
    let client = etcd_client::Client::connect([format!("{scheme}://{server}")], Some(options)).await;
    client.map_err(|cause| error::from_etcd(CONNECT, cause))
}

#[cfg(not(feature = "tls"))]
fn with_tls(options: ConnectOptions, _: &EtcdConfig) -> Result<ConnectOptions> {
    Ok(options)
}

#[cfg(feature = "tls")]
fn with_tls(options: ConnectOptions, config: &EtcdConfig) -> Result<ConnectOptions> {
    use etcd_client::{Certificate, Identity, TlsOptions};

    if !config.tls {
        return Ok(options);
    }
    let mut tls = TlsOptions::new();
    tls = match &config.ca_file {
        Some(file) => tls.ca_certificate(Certificate::from_pem(pem(file)?)),
        None => tls.with_native_roots(),
    };
    if let (Some(cert_file), Some(key_file)) = (&config.cert_file, &config.key_file) {
        tls = tls.identity(Identity::from_pem(pem(cert_file)?, pem(key_file)?));
    }
    Ok(options.with_tls(tls))
}

#[cfg(feature = "tls")]
fn pem(file: &std::path::Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|cause| {
        Error::new(ErrorKind::InvalidArgument, CONNECT, "a PEM file cannot be read")
            .with_context("file", file.display())
            .with_source(cause)
    })
}
