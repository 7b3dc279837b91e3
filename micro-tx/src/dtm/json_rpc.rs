//! DTM's JSON-RPC API: the transactions. What it lacks is done over the HTTP API of the same port.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result,
    branch::{Mode, shown_url},
};
use reqwest::Url;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    DtmConfig,
    api::{Answer, Api, BranchRegistration, TopicVerb, Verb, WorkflowProgress},
    config::BASE_PATH,
    error::{Code, Failed, Refusal},
    global::GlobalTransaction,
    http::{HttpApi, registration},
};

/// Where it stands on the port of the HTTP API.
const PATH: &str = "/api/json-rpc";
/// What DTM calls it.
const PROTOCOL: &str = "json-rpc";
/// The word in a branch's URL by which DTM knows that it is called in JSON-RPC.
const METHOD: &str = "method";

pub(crate) struct JsonRpcApi {
    rpc: HttpApi,
    http: HttpApi,
    request_timeout: Duration,
}

#[derive(Serialize)]
struct Request<'a, P> {
    jsonrpc: &'static str,
    /// DTM takes a text alone. Each request has a connection to itself, so that none needs one of its own.
    id: &'static str,
    method: &'a str,
    params: P,
}

#[derive(Deserialize)]
struct Response {
    #[serde(rename = "jsonrpc")]
    _version: String,
    #[serde(default)]
    error: Option<Fault>,
    #[serde(default)]
    result: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Fault {
    code: i64,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Gid {
    gid: String,
}

impl JsonRpcApi {
    /// Beside this HTTP API, whose base [`DtmConfig::checked`] found right.
    pub(crate) fn new(http: HttpApi, config: &DtmConfig) -> Result<Self> {
        let base = http.address().strip_suffix(BASE_PATH).expect("the settings were checked");
        let rpc = HttpApi::new(&format!("{base}{PATH}"), config)?;
        Ok(Self { rpc, http, request_timeout: config.request_timeout })
    }

    async fn call(
        &self,
        method: &str,
        params: impl Serialize + Sync,
        timeout: Duration,
    ) -> Answer<Option<Box<RawValue>>> {
        let request = Request { jsonrpc: "2.0", id: "1", method, params };
        let (status, body) = self.rpc.exchange(&request, timeout).await?;
        let refused = |code, text| {
            let address = self.rpc.address().to_owned();
            Err(Failed::Refused(Refusal { code, text, address }))
        };
        // What DTM cannot read it answers with another status, and a code all the same.
        match self.rpc.read::<Response>(&body) {
            Ok(Response { error: Some(fault), .. }) => refused(Code::JsonRpc(fault.code), fault.message),
            _ if !status.is_success() => {
                refused(Code::Http(status.as_u16()), String::from_utf8_lossy(&body).into_owned())
            }
            answer => Ok(answer?.result),
        }
    }
}

#[async_trait]
impl Api for JsonRpcApi {
    /// That of the HTTP API: a participant that reserves in its turn registers there, whatever its language.
    fn address(&self) -> &str {
        self.http.address()
    }

    fn check(&self, transaction: &GlobalTransaction) -> Result<()> {
        check(transaction)?;
        transaction.to_json(PROTOCOL).map(drop)
    }

    async fn new_gid(&self) -> Answer<String> {
        let result = self.call("newGid", BTreeMap::<&str, &str>::new(), self.request_timeout).await?;
        let text = result.as_ref().map_or("null", |result| result.get());
        Ok(self.rpc.read::<Gid>(text.as_bytes())?.gid)
    }

    async fn send(&self, verb: Verb, transaction: &GlobalTransaction, timeout: Duration) -> Answer<()> {
        let method = match verb {
            Verb::Prepare => "prepare",
            Verb::Submit => "submit",
            Verb::Abort => "abort",
        };
        check(transaction).map_err(Failed::Unanswered)?;
        let params = transaction.to_json(PROTOCOL).map_err(Failed::Unanswered)?;
        self.call(method, params, timeout).await.map(drop)
    }

    async fn register(&self, branch: &BranchRegistration) -> Answer<()> {
        check_branch(branch).map_err(Failed::Unanswered)?;
        let params = registration(branch).map_err(Failed::Unanswered)?;
        self.call("registerBranch", params, self.request_timeout).await.map(drop)
    }

    async fn prepare_workflow(&self, transaction: &GlobalTransaction) -> Answer<WorkflowProgress> {
        self.http.prepare_workflow(transaction).await
    }

    async fn topic(&self, verb: TopicVerb<'_>, topic: &str) -> Answer<()> {
        self.http.topic(verb, topic).await
    }
}

/// Whether DTM calls this URL in JSON-RPC, in a transaction that it was told of so.
pub(crate) fn is_json_rpc(url: &str) -> bool {
    let is_http = url.starts_with("http://") || url.starts_with("https://");
    is_http && url.contains(METHOD)
}

/// The method that is called at such a URL.
pub(crate) fn method(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let named = url.query_pairs().find(|(name, value)| name == METHOD && !value.is_empty());
    named.map(|(_, value)| value.into_owned())
}

/// What DTM 1.19 would never get called: it panics, and tries again for ever.
fn check(transaction: &GlobalTransaction) -> Result<()> {
    let gid = &transaction.gid;
    for (index, step) in transaction.steps.iter().enumerate() {
        for url in [&step.action, &step.compensation] {
            check_url("dtm.submit", gid, url, &step.payload).map_err(|error| error.with_context("step", index))?;
        }
    }
    if transaction.mode == Mode::Msg && is_json_rpc(&transaction.query_prepared) {
        let message =
            "DTM 1.19 cannot ask query_prepared in JSON-RPC: a URL without the word `method` is asked by HTTP";
        return Err(Error::new(ErrorKind::InvalidArgument, "dtm.prepare", message)
            .with_context("gid", gid)
            .with_context("url", shown_url(&transaction.query_prepared)));
    }
    Ok(())
}

fn check_branch(branch: &BranchRegistration) -> Result<()> {
    let mut urls = branch.data.values().filter(|_| branch.mode != Mode::Workflow);
    urls.try_for_each(|url| check_url("dtm.register", &branch.gid, url, &branch.payload))
}

fn check_url(operation: &'static str, gid: &str, url: &str, payload: &[u8]) -> Result<()> {
    if !is_json_rpc(url) {
        return Ok(());
    }
    let refused = |message: &'static str| {
        let error = Error::new(ErrorKind::InvalidArgument, operation, message).with_context("gid", gid);
        Err(error.with_context("url", shown_url(url)))
    };
    if method(url).is_none() {
        return refused(
            "over JSON-RPC DTM takes a URL with the word `method` for a call in JSON-RPC: write ?method=NAME, or use its HTTP API",
        );
    }
    if serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(payload).is_err() {
        return refused("a call in JSON-RPC has a JSON object for a payload, to which DTM adds the branch");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use micro_core::saga::Step;

    use super::*;

    const PAY: &str = "http://me:secret@h:1/rpc?method=pay";

    fn told(transaction: &GlobalTransaction) -> String {
        let error = check(transaction).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        error.to_string()
    }

    #[test]
    fn what_dtm_could_not_call_in_json_rpc_is_refused() {
        let mut transaction = GlobalTransaction::new(Mode::Saga, "g");
        transaction.steps.push(Step::new("http://h:1/pay"));
        transaction.steps.push(Step::new("https://h:1/rpc?method=pay").compensation("").payload(&br#"{"a":1}"#[..]));
        check(&transaction).unwrap();
        for (url, payload, expected) in [
            (PAY, "", "a JSON object for a payload"),
            (PAY, "null", "a JSON object for a payload"),
            (PAY, "[1]", "a JSON object for a payload"),
            ("http://h:1/payment-methods", "{}", "write ?method=NAME"),
            ("http://h:1/rpc?method=", "{}", "write ?method=NAME"),
        ] {
            for step in [Step::new(url), Step::new("").compensation(url)] {
                transaction.steps[1] = step.payload(payload);
                let error = told(&transaction);
                assert!(error.contains(expected) && error.contains("step=1") && !error.contains("secret"), "{error}");
            }
        }
        let mut message = GlobalTransaction::new(Mode::Msg, "g");
        message.query_prepared = PAY.to_owned();
        assert!(told(&message).contains("url=http://***@h:1/rpc?method=pay"));
    }

    #[test]
    fn the_second_phase_of_xa_has_no_payload_and_is_not_called_in_json_rpc() {
        let of = |mode| BranchRegistration::new(mode, "g", "01");
        check_branch(&of(Mode::Tcc).data("confirm", PAY).payload("{}")).unwrap();
        check_branch(&of(Mode::Workflow).data("op", "http://h/method")).unwrap();
        assert!(check_branch(&of(Mode::Xa).data("url", PAY)).is_err());
    }
}
