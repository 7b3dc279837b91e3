//! Requests to the agent: address, token, deadlines, and the size of an answer.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use micro_core::{Error, ErrorKind, Result};
use reqwest::{
    Method, Response, Url,
    header::{HeaderMap, HeaderValue},
    redirect,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{sleep, timeout};

use crate::{ConsulConfig, complaints::Complaints, error, limits::ANSWER_BYTES_MAX};

/// Between two questions for the leader of an agent that is just starting.
const LEADER_INTERVAL: Duration = Duration::from_millis(100);

/// The HTTP API of one agent. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Arc<Url>,
    /// As users know it, for errors.
    address: Arc<str>,
    pub(crate) config: Arc<ConsulConfig>,
    pub(crate) complaints: Complaints,
}

/// What Consul answered.
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    /// The index of the state that the answer shows; 0 where there is none.
    pub(crate) index: u64,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self, operation: &'static str) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|cause| error::unreadable(operation, cause))
    }
}

impl Client {
    /// A client of an agent that knows its leader and, if there is a token, the token.
    pub(crate) async fn connect(config: ConsulConfig) -> Result<Self> {
        let limit = config.connect_timeout;
        let client = Self::new(config)?;
        match timeout(limit, client.is_ready()).await {
            Ok(outcome) => outcome.map(|()| client),
            Err(_) => {
                let message = "no Consul agent with a leader answered in time: check the agent and its servers";
                let error = Error::new(ErrorKind::Unavailable, "registry.connect", message);
                Err(client.with_address(error).with_context("timeout", format!("{limit:?}")))
            }
        }
    }

    fn new(config: ConsulConfig) -> Result<Self> {
        let base = config.checked_base()?;
        let address = base.as_str().trim_end_matches('/').trim_start_matches("http://").into();
        let (http, complaints) = (http(&config)?, Complaints::default());
        Ok(Self { http, base: Arc::new(base), address, config: Arc::new(config), complaints })
    }

    async fn is_ready(&self) -> Result<()> {
        let operation = "registry.connect";
        while self.get(operation, &["status", "leader"], &[]).await?.json::<String>(operation)?.is_empty() {
            sleep(LEADER_INTERVAL).await;
        }
        if self.config.token.is_none() {
            return Ok(());
        }
        match self.get(operation, &["acl", "token", "self"], &[]).await {
            // 401: ACLs are off, so that no token is looked at.
            Err(error) if error.kind() == ErrorKind::Unauthenticated => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// `GET /v1/…` within the request timeout.
    pub(crate) async fn get(&self, operation: &'static str, path: &[&str], query: &[(&str, &str)]) -> Result<Answer> {
        let url = self.url(path, query);
        self.send(operation, self.http.get(url).timeout(self.config.request_timeout)).await
    }

    /// `GET /v1/…` of the configured datacenter, which Consul holds back until its state is newer
    /// than `index`; 0 does not wait.
    pub(crate) async fn get_newer(
        &self,
        operation: &'static str,
        path: &[&str],
        query: &[(&str, &str)],
        index: u64,
    ) -> Result<Answer> {
        let mut url = self.url(path, query);
        if let Some(datacenter) = &self.config.datacenter {
            url.query_pairs_mut().append_pair("dc", datacenter);
        }
        let mut limit = self.config.request_timeout;
        if index > 0 {
            let wait = format!("{}ms", self.config.blocking_wait.as_millis());
            url.query_pairs_mut().append_pair("index", &index.to_string()).append_pair("wait", &wait);
            limit = self.config.blocking_timeout;
        }
        self.send(operation, self.http.get(url).timeout(limit)).await
    }

    /// `PUT /v1/…` within `limit`.
    pub(crate) async fn put(
        &self,
        operation: &'static str,
        path: &[&str],
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<()> {
        let mut request = self.http.request(Method::PUT, self.url(path, &[])).timeout(limit);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(operation, request).await.map(drop)
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = (*self.base).clone();
        // Each part is escaped: a name may hold a slash or a question mark.
        url.path_segments_mut().expect("http has paths").push("v1").extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    async fn send(&self, operation: &'static str, request: reqwest::RequestBuilder) -> Result<Answer> {
        self.answer(operation, request).await.map_err(|error| self.with_address(error))
    }

    async fn answer(&self, operation: &'static str, request: reqwest::RequestBuilder) -> Result<Answer> {
        let mut response = request.send().await.map_err(|cause| error::from_reqwest(operation, cause))?;
        let index = index_of(&response);
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|cause| error::from_reqwest(operation, cause))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                let error = Error::new(ErrorKind::ResourceExhausted, operation, "the answer is too large");
                return Err(error.with_context("bytes_max", ANSWER_BYTES_MAX));
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status();
        if status.is_success() {
            return Ok(Answer { body: body.freeze(), index });
        }
        Err(error::from_answer(operation, status, &self.without_token(&String::from_utf8_lossy(&body))))
    }

    fn without_token(&self, text: &str) -> String {
        self.config.token.as_ref().map_or_else(|| text.to_owned(), |token| text.replace(token, "***"))
    }

    /// An answer that is not Consul's, with the address that it came from.
    pub(crate) fn unreadable(&self, operation: &'static str, cause: serde_json::Error) -> Error {
        self.with_address(error::unreadable(operation, cause))
    }

    fn with_address(&self, error: Error) -> Error {
        error.with_context("backend", "consul").with_context("address", &self.address)
    }
}

pub(crate) fn http(config: &ConsulConfig) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .default_headers(headers(config)?)
        .connect_timeout(config.connect_timeout)
        // An agent is near; and neither a proxy nor another host is to see the token.
        .no_proxy()
        .redirect(redirect::Policy::none())
        // A blocking query is silent for a minute: find out that the agent's host is gone.
        .tcp_keepalive(Duration::from_secs(15));
    #[cfg(feature = "tls")]
    let builder = builder.tls_backend_preconfigured(crate::tls::client(config)?);
    builder.build().map_err(|cause| error::from_reqwest("registry.connect", cause))
}

fn headers(config: &ConsulConfig) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    if let Some(token) = &config.token {
        let mut value = HeaderValue::from_str(token).map_err(|_| {
            Error::new(ErrorKind::InvalidArgument, "registry.connect", "the token has characters that no header takes")
        })?;
        value.set_sensitive(true);
        headers.insert("X-Consul-Token", value);
    }
    Ok(headers)
}

fn index_of(response: &Response) -> u64 {
    let index = response.headers().get("X-Consul-Index").and_then(|value| value.to_str().ok());
    index.and_then(|index| index.parse().ok()).unwrap_or_default()
}

/// `None` for what is not there.
pub(crate) fn optional<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}
