//! Values of Consul's key/value store.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use micro_core::{Error, ErrorKind, Result};
use serde::Deserialize;

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

    /// The keys that begin with `prefix` and the token may read, in Consul's order, by bytes, each with
    /// its value, as they were at one moment. None is no error. A slash in front is left out.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get); `ResourceExhausted` for an answer over the limit of all of
    /// Consul's answers.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        let operation = "consul.kv.list";
        let path: Vec<_> = std::iter::once("kv").chain(prefix.trim_start_matches('/').split('/')).collect();
        let answer = optional(self.client.get_newer(operation, &path, &[("recurse", "1")], 0).await);
        let Some(answer) = answer.map_err(|error| error.with_context("prefix", prefix))? else { return Ok(Vec::new()) };
        let entries = answer.json::<Vec<Entry>>(operation)?;
        entries.into_iter().map(|entry| entry.read(operation)).collect()
    }
}

/// As Consul lists it: the value in base64, `null` where it is empty.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    value: Option<String>,
}

impl Entry {
    fn read(self, operation: &'static str) -> Result<(String, Bytes)> {
        match STANDARD.decode(self.value.unwrap_or_default()) {
            Ok(value) => Ok((self.key, value.into())),
            Err(cause) => Err(Error::new(ErrorKind::Internal, operation, "expected the value in base64")
                .with_context("key", self.key)
                .with_source(cause)),
        }
    }
}

impl fmt::Debug for ConsulKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulKv").field("config", &self.client.config).finish_non_exhaustive()
    }
}
