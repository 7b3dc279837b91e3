//! Requests to etcd: deadlines, and the next server where one is away.

use std::{future::Future, sync::Arc, time::Duration};

use etcd_client::{
    Compare, CompareOp, DeleteOptions, Error as EtcdError, GetOptions, GetResponse, PutOptions, Txn, TxnOp,
    WatchOptions, WatchStream,
};
use micro_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use crate::{
    EtcdConfig,
    complaints::Complaints,
    error,
    servers::{Connection, Servers},
};

const CONNECT: &str = "registry.connect";

/// One cluster. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    servers: Arc<Servers>,
    pub(crate) config: Arc<EtcdConfig>,
    pub(crate) complaints: Complaints,
}

/// What a key has now, as far as it says whose it is.
pub(crate) struct Held {
    pub(crate) value: Vec<u8>,
    pub(crate) lease: i64,
}

impl Client {
    /// A client of a cluster that answers a request, within the connect timeout.
    pub(crate) async fn connect(config: EtcdConfig) -> Result<Self> {
        config.check()?;
        let (limit, servers) = (config.connect_timeout, config.shown_servers());
        let with_servers = |error: Error| error.with_context("backend", "etcd").with_context("address", &servers);
        let connecting = async {
            let servers = Servers::reach(&config).await.map_err(with_servers)?;
            let config = Arc::new(config.clone());
            let client = Self { servers: Arc::new(servers), config, complaints: Complaints::default() };
            // By a request of the registry's own, so that what a user may not do is known now.
            let count = GetOptions::new().with_prefix().with_count_only();
            let from = client.config.service_prefix("");
            let ask = |connection: Connection| {
                let (mut kv, from, count) = (connection.kv, from.clone(), count.clone());
                async move { kv.get(from, Some(count)).await }
            };
            // The limit is the one around all of this.
            client.within(CONNECT, limit * 2, ask).await.map(|_| client.clone())
        };
        match timeout(limit, connecting).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let message = "no etcd server answered in time: check the servers and that they have a leader";
                let error = Error::new(ErrorKind::Unavailable, CONNECT, message);
                Err(with_servers(error).with_context("timeout", format!("{limit:?}")))
            }
        }
    }

    /// What stands below a prefix, at the revision that the answer's header names.
    pub(crate) async fn list(&self, operation: &'static str, prefix: &str) -> Result<GetResponse> {
        let ask = |Connection { mut kv, .. }: Connection| async move {
            kv.get(prefix, Some(GetOptions::new().with_prefix())).await
        };
        self.in_time(operation, ask).await
    }

    pub(crate) async fn held(&self, operation: &'static str, key: &str) -> Result<Option<Held>> {
        let ask = |Connection { mut kv, .. }: Connection| async move { kv.get(key, None).await };
        let answer = self.in_time(operation, ask).await?;
        Ok(answer.kvs().first().map(|held| Held { value: held.value().to_vec(), lease: held.lease() }))
    }

    pub(crate) async fn put(&self, operation: &'static str, key: &str, value: &[u8], lease: i64) -> Result<()> {
        let ask = |Connection { mut kv, .. }: Connection| async move {
            kv.put(key, value, Some(PutOptions::new().with_lease(lease))).await
        };
        self.in_time(operation, ask).await.map(drop)
    }

    pub(crate) async fn delete(&self, operation: &'static str, key: &str) -> Result<()> {
        let ask = |Connection { mut kv, .. }: Connection| async move { kv.delete(key, None::<DeleteOptions>).await };
        self.in_time(operation, ask).await.map(drop)
    }

    /// Deletes a key that this lease still keeps.
    pub(crate) async fn delete_of(&self, operation: &'static str, key: &str, lease: i64) -> Result<()> {
        let ask = |Connection { mut kv, .. }: Connection| async move {
            let is_ours = Compare::lease(key, CompareOp::Equal, lease);
            kv.txn(Txn::new().when([is_ours]).and_then([TxnOp::delete(key, None)])).await
        };
        self.in_time(operation, ask).await.map(drop)
    }

    /// A lease of this many seconds, or of as many more as etcd gives at least.
    pub(crate) async fn grant(&self, operation: &'static str, ttl_seconds: i64) -> Result<i64> {
        let ask = |Connection { mut lease, .. }: Connection| async move { lease.grant(ttl_seconds, None).await };
        Ok(self.in_time(operation, ask).await?.id())
    }

    /// Keeps a lease for another TTL; `NotFound` for one that is over. The limit is the caller's.
    pub(crate) async fn keep_alive(&self, operation: &'static str, id: i64, limit: Duration) -> Result<()> {
        let ask = |Connection { mut lease, .. }: Connection| async move { lease.keep_alive(id).await };
        self.within(operation, limit, ask).await.map(drop)
    }

    /// The seconds that a lease was granted for, if it is not over.
    pub(crate) async fn granted_ttl(&self, operation: &'static str, id: i64) -> Result<Option<i64>> {
        let ask = |Connection { mut lease, .. }: Connection| async move { lease.time_to_live(id, None).await };
        let answer = self.in_time(operation, ask).await?;
        Ok((answer.ttl() > 0).then(|| answer.granted_ttl()))
    }

    pub(crate) async fn revoke(&self, operation: &'static str, id: i64) -> Result<()> {
        let ask = |Connection { mut lease, .. }: Connection| async move { lease.revoke(id).await };
        match self.in_time(operation, ask).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// The changes below a prefix from a revision on, with what stood there before.
    pub(crate) async fn watch(&self, operation: &'static str, prefix: &str, revision: i64) -> Result<WatchStream> {
        let ask = |Connection { mut watch, .. }: Connection| async move {
            let options = WatchOptions::new().with_prefix().with_prev_key().with_start_revision(revision);
            watch.watch(prefix, Some(options)).await
        };
        self.in_time(operation, ask).await
    }

    pub(crate) fn failed(&self, operation: &'static str, cause: EtcdError) -> Error {
        self.with_servers(error::from_etcd(operation, cause))
    }

    pub(crate) fn with_servers(&self, error: Error) -> Error {
        error.with_context("backend", "etcd").with_context("address", self.config.shown_servers())
    }

    async fn in_time<T, F>(&self, operation: &'static str, ask: impl Fn(Connection) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, EtcdError>>,
    {
        self.within(operation, self.config.request_timeout, ask).await
    }

    async fn within<T, F>(&self, operation: &'static str, limit: Duration, ask: impl Fn(Connection) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, EtcdError>>,
    {
        match timeout(limit, self.of_one(operation, ask)).await {
            Ok(outcome) => outcome.map_err(|error| self.with_servers(error)),
            Err(_) => {
                self.servers.leave(self.servers.current());
                let error = Error::new(ErrorKind::DeadlineExceeded, operation, "etcd did not answer in time");
                Err(self.with_servers(error).with_context("timeout", format!("{limit:?}")))
            }
        }
    }

    /// Asks one server after the other, each once, while they are away. Every request here may be
    /// done twice: a lease that nobody knows of ends by itself.
    async fn of_one<T, F>(&self, operation: &'static str, ask: impl Fn(Connection) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, EtcdError>>,
    {
        let mut tries = self.servers.count();
        loop {
            let index = self.servers.current();
            tries -= 1;
            match self.of_server(index, operation, &ask).await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    self.servers.leave(index);
                    if tries == 0 {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Asks a server, and once more as who the configured user is now, where etcd's users changed or
    /// authentication was switched on or off: it has done nothing of a request that it refuses so.
    /// etcd's own client gets another token only where it has one, and not for every such answer.
    async fn of_server<T, F>(&self, index: usize, operation: &'static str, ask: impl Fn(Connection) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, EtcdError>>,
    {
        let connection = self.servers.connection(&self.config, index).await?;
        let mut outcome = ask(connection.clone()).await;
        if self.config.user.is_some() && outcome.as_ref().is_err_and(error::is_of_other_users) {
            self.servers.forget(index, &connection);
            let connection = self.servers.connection(&self.config, index).await?;
            outcome = ask(connection).await;
        }
        outcome.map_err(|cause| error::from_etcd(operation, cause))
    }
}
