//! DTM's HTTP API: the transactions, and what only it tells of them.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use micro_core::{Error, ErrorKind};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    DtmConfig,
    api::{Answer, Api, BranchRegistration, TopicVerb, Verb, WorkflowProgress, WorkflowStep},
    error::{Code, Failed, Refusal, from_reqwest, unreadable},
    global::GlobalTransaction,
    state::TransactionState,
    tls,
};

/// An answer is at most this long: a page of transactions, or all that the branches of a workflow gave.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

#[derive(Clone)]
pub(crate) struct HttpApi {
    http: reqwest::Client,
    base: Url,
    address: String,
    request_timeout: Duration,
}

#[derive(Deserialize)]
struct Gid {
    gid: String,
}

#[derive(Deserialize)]
struct Message {
    message: String,
}

#[derive(Deserialize)]
struct Progresses {
    transaction: Option<TransactionState>,
    #[serde(default)]
    progresses: Vec<Progress>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Progress {
    branch_id: String,
    op: String,
    status: String,
    bin_data: String,
}

impl HttpApi {
    /// `base` is one that [`DtmConfig::checked`] found right.
    pub(crate) fn new(base: &str, config: &DtmConfig) -> Result<Self, Error> {
        let builder = tls::builder()
            .connect_timeout(config.connect_timeout)
            // DTM is near, and answers by itself.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        let http = builder.build().map_err(|cause| from_reqwest("dtm.connect", base, cause))?;
        let parsed = Url::parse(base).expect("the settings were checked");
        Ok(Self { http, base: parsed, address: base.to_owned(), request_timeout: config.request_timeout })
    }

    /// `GET` below the base.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Answer<T> {
        let body = self.send_one(self.http.get(self.url(path, query)), self.request_timeout).await?;
        self.read(&body)
    }

    /// `POST` of JSON below the base.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
        timeout: Duration,
    ) -> Answer<T> {
        let body = self.send_one(self.http.post(self.url(&[path], &[])).json(body), timeout).await?;
        self.read(&body)
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        // Each part is escaped: a topic may hold a slash.
        url.path_segments_mut().expect("http has paths").extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// `POST` of JSON to the base itself: the answer as it comes.
    pub(crate) async fn exchange(
        &self,
        body: &(impl Serialize + Sync),
        timeout: Duration,
    ) -> Answer<(StatusCode, Bytes)> {
        self.send_any(self.http.post(self.url(&[], &[])).json(body), timeout).await
    }

    async fn send_one(&self, request: RequestBuilder, timeout: Duration) -> Answer<Bytes> {
        let (status, body) = self.send_any(request, timeout).await?;
        if status.is_success() {
            return Ok(body);
        }
        let text = match serde_json::from_slice::<Message>(&body) {
            Ok(Message { message }) => message,
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        };
        let code = Code::Http(status.as_u16());
        Err(Failed::Refused(Refusal { code, text, address: self.address.clone() }))
    }

    async fn send_any(&self, request: RequestBuilder, timeout: Duration) -> Answer<(StatusCode, Bytes)> {
        let broken = |cause| Failed::Unanswered(from_reqwest("dtm.call", &self.address, cause));
        let mut response = request.timeout(timeout).send().await.map_err(broken)?;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                let error = Error::new(ErrorKind::ResourceExhausted, "dtm.call", "the answer is too large")
                    .with_context("address", &self.address)
                    .with_context("bytes_max", ANSWER_BYTES_MAX);
                return Err(Failed::Unanswered(error));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.status(), body.freeze()))
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Answer<T> {
        serde_json::from_slice(body).map_err(|cause| Failed::Unanswered(unreadable("dtm.call", &self.address, cause)))
    }
}

#[async_trait]
impl Api for HttpApi {
    fn address(&self) -> &str {
        &self.address
    }

    fn check(&self, transaction: &GlobalTransaction) -> micro_core::Result<()> {
        transaction.to_json("").map(drop)
    }

    async fn new_gid(&self) -> Answer<String> {
        Ok(self.get::<Gid>(&["newGid"], &[]).await?.gid)
    }

    async fn send(&self, verb: Verb, transaction: &GlobalTransaction, timeout: Duration) -> Answer<()> {
        let path = match verb {
            Verb::Prepare => "prepare",
            Verb::Submit => "submit",
            Verb::Abort => "abort",
        };
        let body = transaction.to_json("").map_err(Failed::Unanswered)?;
        self.post::<Box<RawValue>>(path, &body, timeout).await.map(drop)
    }

    async fn register(&self, branch: &BranchRegistration) -> Answer<()> {
        let body = registration(branch).map_err(Failed::Unanswered)?;
        self.post::<Box<RawValue>>("registerBranch", &body, self.request_timeout).await.map(drop)
    }

    async fn prepare_workflow(&self, transaction: &GlobalTransaction) -> Answer<WorkflowProgress> {
        let body = transaction.to_json("").map_err(Failed::Unanswered)?;
        let reply: Progresses = self.post("prepareWorkflow", &body, self.request_timeout).await?;
        let decode = |text: &str| {
            let bytes = BASE64_STANDARD.decode(text).map(Bytes::from);
            bytes.map_err(|cause| Failed::Unanswered(unreadable("dtm.call", &self.address, cause)))
        };
        let state = reply.transaction.unwrap_or_default();
        let steps = reply.progresses.into_iter();
        let steps =
            steps.map(|step| Ok(WorkflowStep::new(step.branch_id, step.op, step.status, decode(&step.bin_data)?)));
        Ok(WorkflowProgress {
            status: state.status.as_str().to_owned(),
            rollback_reason: state.rollback_reason,
            result: decode(&state.result)?,
            steps: steps.collect::<Answer<_>>()?,
        })
    }

    async fn topic(&self, verb: TopicVerb<'_>, topic: &str) -> Answer<()> {
        let request = match verb {
            TopicVerb::Subscribe { url, remark } => {
                let query = [("topic", topic), ("url", url), ("remark", remark)];
                self.http.get(self.url(&["subscribe"], &query))
            }
            TopicVerb::Unsubscribe { url } => {
                self.http.get(self.url(&["unsubscribe"], &[("topic", topic), ("url", url)]))
            }
            TopicVerb::Delete => self.http.request(Method::DELETE, self.url(&["topic", topic], &[])),
        };
        self.send_one(request, self.request_timeout).await.map(drop)
    }
}

/// A branch as the HTTP and the JSON-RPC API take it.
pub(crate) fn registration(branch: &BranchRegistration) -> Result<BTreeMap<&str, &str>, Error> {
    let payload = std::str::from_utf8(&branch.payload).map_err(|_| {
        let message = "over HTTP and JSON-RPC a payload is text: name DTM's gRPC API, or send JSON";
        Error::new(ErrorKind::InvalidArgument, "dtm.register", message).with_context("gid", &branch.gid)
    })?;
    // The names of the data and ours do not meet: those of the data are the mode's.
    let mut body: BTreeMap<&str, &str> = branch.data.iter().map(|(name, value)| (&**name, &**value)).collect();
    body.extend([
        ("gid", &*branch.gid),
        ("trans_type", branch.mode.as_str()),
        ("branch_id", &*branch.branch_id),
        ("data", payload),
    ]);
    Ok(body)
}
