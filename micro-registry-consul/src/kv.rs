//! Values of Consul's key/value store.

use std::fmt;

use bytes::Bytes;
use micro_core::Result;

use crate::{
    ConsulConfig,
    client::{Client, optional},
};

/// Reads keys of Consul's key/value store. Clones share the connection.
#[derive(Clone)]
pub struct ConsulKv {
    client: Client,
}

impl ConsulKv {
    /// The store behind the agent that `config` names.
    ///
    /// # Errors
    ///
    /// Those of [`ConsulRegistry::connect`](crate::ConsulRegistry::connect).
    pub async fn connect(config: ConsulConfig) -> Result<Self> {
        Client::connect(config).await.map(Self::new)
    }

    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The value of a key, such as `micro/order`; `None` when there is no such key. A slash in front
    /// is left out, for no key of Consul's begins with one.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` when the token may not read the key; `Unavailable` or `DeadlineExceeded`
    /// when Consul does not answer.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let path: Vec<_> = std::iter::once("kv").chain(key.trim_start_matches('/').split('/')).collect();
        let answer = optional(self.client.get_newer("consul.kv.get", &path, &[("raw", "1")], 0).await);
        Ok(answer.map_err(|error| error.with_context("key", key))?.map(|answer| answer.body))
    }
}

impl fmt::Debug for ConsulKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulKv").field("config", &self.client.config).finish_non_exhaustive()
    }
}
