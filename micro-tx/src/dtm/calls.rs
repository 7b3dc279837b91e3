//! Calls the branches of global transactions that are HTTP resources, or either.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use micro_core::{
    Error, ErrorKind, Result,
    branch::{BranchAnswer, Mode, shown_url, without_accounts},
    saga::{BranchCaller, BranchRequest},
};
use micro_grpc::GrpcBranchCaller;
use reqwest::{Method, RequestBuilder, StatusCode, Url, header::HeaderName, redirect::Policy};

use super::{json_rpc::is_json_rpc, json_rpc_calls, tls};

/// How much of an answer is read: what is longer is no answer of a branch.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Calls branches at `http://…` and `https://…`, and reads what they answer as DTM does: a body with
/// the word ONGOING or the status 425 is "ongoing", one with the word FAILURE or the status 409 refuses
/// for good, 200 is success, in this order; anything else is none of them. So is a redirect, which is
/// not followed: DTM follows it, with a GET that has no body after a 301, 302 or 303, and whatever
/// answers there passes for the branch.
///
/// The payload is sent by POST as `application/json`; none is a GET, but for the second phase of XA.
/// Which call it is stands in the query beside what the URL has there.
///
/// Source: DTM 1.19, `requestBranch` and `HTTPResp2DtmError`.
#[derive(Clone, Debug)]
pub struct HttpBranchCaller {
    http: reqwest::Client,
    calls_json_rpc: bool,
}

impl HttpBranchCaller {
    /// A caller with connections of its own.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` where the system lets no client be made.
    pub fn new() -> Result<Self> {
        let http = tls::builder().no_proxy().redirect(Policy::none()).build().map_err(|cause| {
            Error::new(ErrorKind::InvalidArgument, "branch.call", "no HTTP client can be made").with_source(cause)
        })?;
        Ok(Self { http, calls_json_rpc: false })
    }

    /// Calls URLs with the word `method` in JSON-RPC, as DTM does in transactions that it was told of so:
    /// `http://HOST:PORT/PATH?method=NAME`, with a JSON object for a payload, to which the branch is added.
    /// An answer with DTM's code -32901 refuses for good and one with -32902 is "ongoing", and so is what
    /// says so by DTM's other rules.
    #[must_use]
    pub fn with_json_rpc(mut self) -> Self {
        self.calls_json_rpc = true;
        self
    }

    fn in_json_rpc(&self, url: &str) -> bool {
        self.calls_json_rpc && is_json_rpc(url)
    }

    fn request(&self, request: &BranchRequest<'_>) -> Result<RequestBuilder> {
        let refused = |message: &'static str| {
            Error::new(ErrorKind::InvalidArgument, "branch.call", message).with_context("url", shown_url(request.url))
        };
        let mut url = Url::parse(request.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| refused("not a branch's URL: expected http://… or https://…"))?;
        let is_json_rpc = self.in_json_rpc(request.url);
        let branch = request.branch;
        let parts = [
            ("gid", branch.gid.as_str()),
            ("trans_type", branch.mode.as_str()),
            ("branch_id", branch.id.as_str()),
            ("op", branch.op.as_str()),
        ];
        if !is_json_rpc {
            url.query_pairs_mut().extend_pairs(parts);
            for (name, value) in [("dtm", &branch.coordinator), ("phase2_url", &branch.phase2_url)] {
                if let Some(value) = value {
                    url.query_pairs_mut().append_pair(name, value);
                }
            }
        }
        let is_get = request.payload.is_empty() && branch.mode != Mode::Xa && !is_json_rpc;
        let mut builder = self.http.request(if is_get { Method::GET } else { Method::POST }, url);
        builder = builder.header("accept", "application/json").header("content-type", "application/json");
        for (name, value) in request.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| refused("a header's name cannot be sent").with_context("header", name.escape_debug()))?;
            // The value may be a secret.
            let value = reqwest::header::HeaderValue::from_str(value)
                .map_err(|_| refused("a header's value cannot be sent").with_context("header", &name))?;
            builder = builder.header(name, value);
        }
        if is_json_rpc {
            builder = builder.body(json_rpc_calls::body(request)?);
        } else if !is_get {
            builder = builder.body(request.payload.clone());
        }
        Ok(builder.timeout(request.timeout))
    }

    /// As [`call`](BranchCaller::call), with the body of the answer; in JSON-RPC with its result.
    ///
    /// # Errors
    ///
    /// Those of `call`.
    pub async fn call_for_body(&self, request: BranchRequest<'_>) -> Result<(BranchAnswer, Bytes)> {
        let url = shown_url(request.url);
        let lost = |cause: reqwest::Error| {
            let (kind, message) = if cause.is_timeout() {
                (ErrorKind::DeadlineExceeded, "no answer within the time limit")
            } else if cause.is_connect() {
                (ErrorKind::Unavailable, "the branch cannot be reached")
            } else {
                (ErrorKind::Unavailable, "the connection to the branch broke")
            };
            Error::new(kind, "branch.call", message).with_context("url", &url).with_source(cause.without_url())
        };
        let mut response = self.request(&request)?.send().await.map_err(lost)?;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                let error = Error::new(ErrorKind::ResourceExhausted, "branch.call", "the answer is too large");
                return Err(error.with_context("url", &url).with_context("bytes_max", ANSWER_BYTES_MAX));
            }
            body.extend_from_slice(&chunk);
        }
        let body = body.freeze();
        let answer = answer(request.url, response.status(), &body);
        if self.in_json_rpc(request.url) {
            return json_rpc_calls::answer(request.url, &body, answer);
        }
        Ok((answer?, body))
    }
}

#[async_trait]
impl BranchCaller for HttpBranchCaller {
    async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
        self.call_for_body(request).await.map(|(answer, _)| answer)
    }

    fn check(&self, request: &BranchRequest<'_>) -> Result<()> {
        self.request(request).map(drop)
    }
}

fn answer(url: &str, status: StatusCode, body: &Bytes) -> Result<BranchAnswer> {
    let text = String::from_utf8_lossy(body);
    if status == StatusCode::TOO_EARLY || text.contains("ONGOING") {
        return Ok(BranchAnswer::Ongoing);
    }
    if status == StatusCode::CONFLICT || text.contains("FAILURE") {
        return Ok(BranchAnswer::Failed(text.into_owned()));
    }
    if status == StatusCode::OK {
        return Ok(BranchAnswer::Succeeded);
    }
    let shown: String =
        without_accounts(&text).chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    Err(Error::new(ErrorKind::Unknown, "branch.call", "neither done, nor refused, nor ongoing")
        .with_context("url", shown_url(url))
        .with_context("status", status.as_u16())
        .with_context("answer", shown))
}

/// Calls branches by either: at `http://…` and `https://…` as [`HttpBranchCaller`], at anything else as
/// [`GrpcBranchCaller`].
#[derive(Clone, Debug)]
pub struct UrlBranchCaller {
    grpc: GrpcBranchCaller,
    http: HttpBranchCaller,
}

impl UrlBranchCaller {
    /// A caller of these two.
    pub fn new(grpc: GrpcBranchCaller, http: HttpBranchCaller) -> Self {
        Self { grpc, http }
    }

    /// As [`call`](BranchCaller::call), with the body of the answer.
    ///
    /// # Errors
    ///
    /// Those of `call`.
    pub async fn call_for_body(&self, request: BranchRequest<'_>) -> Result<(BranchAnswer, Bytes)> {
        if is_http(request.url) {
            self.http.call_for_body(request).await
        } else {
            self.grpc.call_for_message(request).await
        }
    }
}

#[async_trait]
impl BranchCaller for UrlBranchCaller {
    async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
        self.call_for_body(request).await.map(|(answer, _)| answer)
    }

    fn check(&self, request: &BranchRequest<'_>) -> Result<()> {
        if is_http(request.url) { self.http.check(request) } else { self.grpc.check(request) }
    }
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Router, http::header::LOCATION, routing::any};
    use micro_core::branch::{Branch, Op};
    use tokio::net::TcpListener;

    use super::*;

    /// What stands elsewhere has done nothing of the branch.
    #[tokio::test]
    async fn a_redirect_is_not_followed_and_is_no_success() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut router = Router::new().route("/ok", any(async || ""));
        for status in [301_u16, 302, 303, 307, 308] {
            let redirect = async move || (StatusCode::from_u16(status).unwrap(), [(LOCATION, "/ok")]);
            router = router.route(&format!("/{status}"), any(redirect));
        }
        tokio::spawn(async move { axum::serve(listener, router).await });
        let caller = HttpBranchCaller::new().unwrap();
        let branch = Branch::new(Mode::Saga, "gid", "01", Op::Action).unwrap();
        for payload in [Bytes::new(), Bytes::from_static(b"{}")] {
            let call = async |path: &str| {
                let url = format!("http://{address}/{path}");
                let request =
                    BranchRequest::new(&url, &branch).payload(payload.clone()).timeout(Duration::from_secs(30));
                caller.call(request).await
            };
            assert_eq!(call("ok").await.unwrap(), BranchAnswer::Succeeded);
            for status in ["301", "302", "303", "307", "308"] {
                let error = call(status).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
                assert!(error.to_string().contains(&format!("status={status}")), "{error}");
            }
        }
    }

    /// DTM 1.19, as captured: branches that answered each of these (`e02-http-result-table`).
    #[test]
    fn words_come_before_the_status() {
        use BranchAnswer::{Failed, Ongoing, Succeeded};
        let failed = |text: &str| Some(Failed(text.to_owned()));
        for (status, body, expected) in [
            (200, r#"{"dtm_result":"SUCCESS"}"#, Some(Succeeded)),
            (200, "", Some(Succeeded)),
            (200, "no FAILURE at all", failed("no FAILURE at all")),
            (200, "ONGOING and FAILURE", Some(Ongoing)),
            (409, "not enough", failed("not enough")),
            (409, "ONGOING", Some(Ongoing)),
            (425, "FAILURE", Some(Ongoing)),
            (500, "FAILURE", failed("FAILURE")),
            (500, "oops", None),
            (201, "{}", None),
            (204, "", None),
            (302, "", None),
            (404, "404 page not found", None),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let answered = answer("http://h/a", status, &Bytes::from_static(body.as_bytes()));
            assert_eq!(answered.ok(), expected, "{status} {body}");
        }
    }
}
