//! Calls by address and path, with bytes for messages: for who knows neither the registry's name nor
//! the types of what is called, as a coordinator of distributed transactions.

mod branch;
mod codec;
mod workflow;

pub use branch::GrpcBranchCaller;
pub use workflow::WorkflowService;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, uri::PathAndQuery};
use micro_core::{Error, ErrorKind, Metadata, Result};
use tonic::{
    Code, Status,
    body::Body,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
};
use tower::Service;

use crate::{
    GrpcClientConfig,
    body::{ResponseBody, drop_malformed_details},
    client::endpoint::{Failure, GrpcEndpoint},
    status::from_status,
};
use codec::RawCodec;

/// To how many addresses connections are kept; the one that was called longest ago gives way.
const ADDRESS_COUNT_MAX: usize = 1000;

/// A gRPC client without a registry and without types: whom a call goes to is said by the call.
///
/// Connections are plain text, made when they are needed and kept for each address, at most a
/// thousand of them. Clones share them. No HTTP/2 pings are sent on them unless
/// [`sends_pings`](GrpcClientConfig::sends_pings) says so: who is called may be Go, as DTM is.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), micro_grpc::RawFailure> {
/// use std::time::Duration;
/// use micro_core::Metadata;
/// use micro_grpc::RawGrpcClient;
///
/// let client = RawGrpcClient::default();
/// let (metadata, timeout) = (Metadata::new(), Duration::from_secs(1));
/// let answer = client.call("127.0.0.1:36790", "/dtmgimp.Dtm/NewGid", bytes::Bytes::new(), &metadata, timeout).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RawGrpcClient {
    shared: Arc<Shared>,
    answer_bytes_max: usize,
}

impl Default for RawGrpcClient {
    fn default() -> Self {
        Self::new(GrpcClientConfig::default())
    }
}

/// gRPC's own default.
const ANSWER_BYTES_MAX: usize = 4 << 20;

#[derive(Default)]
struct Shared {
    config: GrpcClientConfig,
    endpoints: Mutex<HashMap<String, Known>>,
    /// Grows with each call, so that it is known which address was called longest ago.
    call_count: AtomicU64,
}

struct Known {
    endpoint: Arc<GrpcEndpoint>,
    last_call: u64,
}

/// Why a call has no message for an answer.
#[derive(Debug)]
pub enum RawFailure {
    /// The server answered with this status.
    Answered(Status),
    /// It did not answer: `Unavailable` where it cannot be reached or the connection broke,
    /// `DeadlineExceeded` where time was up, `InvalidArgument` where nothing could be sent.
    Unanswered(Error),
}

impl RawFailure {
    /// As one error: what a status means is in [`from_status`].
    pub fn into_error(self, operation: &'static str) -> Error {
        match self {
            Self::Answered(status) => from_status(operation, status),
            Self::Unanswered(error) => error,
        }
    }
}

impl fmt::Display for RawFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status) => write!(f, "the server answered {:?}: {}", status.code(), status.message()),
            Self::Unanswered(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RawFailure {}

impl RawGrpcClient {
    /// A client with these settings; nothing is connected before the first call.
    pub fn new(mut config: GrpcClientConfig) -> Self {
        config.sends_pings.get_or_insert(false);
        let shared = Arc::new(Shared { config, ..Shared::default() });
        Self { shared, answer_bytes_max: ANSWER_BYTES_MAX }
    }

    /// The same client, which takes answers of so many bytes at most; by default 4 MiB.
    #[must_use]
    pub fn answer_bytes_max(mut self, bytes: usize) -> Self {
        self.answer_bytes_max = bytes;
        self
    }

    /// Calls the method at `path` (`/package.Service/Method`) of the server at `address`
    /// (`HOST:PORT`), and waits at most `timeout`, which the server is told.
    ///
    /// # Errors
    ///
    /// [`RawFailure`]; a server that says `OK` and sends no message has answered `INTERNAL`.
    ///
    /// # Cancel safety
    ///
    /// A dropped call is reset: the server may have done it or not.
    pub async fn call(
        &self,
        address: &str,
        path: &str,
        message: Bytes,
        metadata: &Metadata,
        timeout: Duration,
    ) -> std::result::Result<Bytes, RawFailure> {
        let path = checked_path(address, path).map_err(RawFailure::Unanswered)?;
        let headers = headers(address, metadata).map_err(RawFailure::Unanswered)?;
        let mut request = tonic::Request::from_parts(headers, tonic::Extensions::new(), message);
        request.set_timeout(timeout);
        let lost = Arc::new(Mutex::new(None));
        let direct = Direct { endpoint: self.shared.endpoint(address), lost: lost.clone() };
        let mut grpc = tonic::client::Grpc::new(direct).max_decoding_message_size(self.answer_bytes_max);
        match tokio::time::timeout(timeout, grpc.unary(request, path, RawCodec)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                let lost = lost.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(lost.map_or(RawFailure::Answered(status), RawFailure::Unanswered))
            }
            Err(_) => Err(RawFailure::Unanswered(
                Error::new(ErrorKind::DeadlineExceeded, "grpc.call", "no answer within the time limit")
                    .with_context("address", address)
                    .with_context("timeout", format_args!("{timeout:?}")),
            )),
        }
    }
}

impl fmt::Debug for RawGrpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawGrpcClient").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Shared {
    fn endpoint(&self, address: &str) -> Arc<GrpcEndpoint> {
        let last_call = self.call_count.fetch_add(1, Ordering::Relaxed);
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = endpoints.get_mut(address) {
            known.last_call = last_call;
            return known.endpoint.clone();
        }
        if endpoints.len() >= ADDRESS_COUNT_MAX {
            let oldest = endpoints.iter().min_by_key(|(_, known)| known.last_call).map(|(address, _)| address.clone());
            oldest.and_then(|address| endpoints.remove(&address));
        }
        let endpoint = Arc::new(GrpcEndpoint::new(address, &self.config));
        endpoints.insert(address.to_owned(), Known { endpoint: endpoint.clone(), last_call });
        endpoint
    }
}

/// Whether such a call could be sent.
///
/// # Errors
///
/// `InvalidArgument`, as the call's.
fn check(address: &str, path: &str, metadata: &Metadata) -> Result<()> {
    checked_path(address, path)?;
    headers(address, metadata).map(drop)
}

fn checked_path(address: &str, path: &str) -> Result<PathAndQuery> {
    PathAndQuery::try_from(path).map_err(|_| refused(address, "path", path))
}

fn headers(address: &str, metadata: &Metadata) -> Result<MetadataMap> {
    let mut headers = MetadataMap::new();
    for (name, value) in metadata.iter() {
        let key = AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(|_| refused(address, "metadata", name))?;
        // The value may be a secret.
        let value = AsciiMetadataValue::try_from(value).map_err(|_| refused(address, "value of metadata", name))?;
        headers.insert(key, value);
    }
    Ok(headers)
}

fn refused(address: &str, what: &'static str, name: &str) -> Error {
    let message = "the request cannot be: a path is /package.Service/Method, metadata is printable ASCII";
    Error::new(ErrorKind::InvalidArgument, "grpc.call", message)
        .with_context("address", address)
        .with_context(what, name.escape_debug())
}

/// One address, as tonic calls it. What came to no answer is left in `lost`.
struct Direct {
    endpoint: Arc<GrpcEndpoint>,
    lost: Arc<Mutex<Option<Error>>>,
}

impl Service<Request<Body>> for Direct {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (endpoint, lost) = (self.endpoint.clone(), self.lost.clone());
        Box::pin(async move {
            let error = match endpoint.send(Box::new(request)).await {
                Ok(mut response) => {
                    drop_malformed_details(response.headers_mut());
                    return Ok(response.map(ResponseBody::new));
                }
                Err(Failure::NotSent(_, error) | Failure::Refused(error)) => error,
                Err(Failure::Broken(status)) => {
                    from_status("grpc.call", status).with_context("address", endpoint.address())
                }
            };
            *lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Err(Status::new(Code::Unavailable, "no answer"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_sent_is_refused_without_showing_values() {
        let client = RawGrpcClient::default();
        let mut metadata = Metadata::new();
        metadata.insert("x-token", "canary\n");
        let call = |path, metadata| client.call("127.0.0.1:1", path, Bytes::new(), metadata, Duration::from_secs(1));
        for (path, metadata, told) in
            [("/a.B/C", &metadata, "value of metadata=x-token"), ("/a b", &Metadata::new(), "path=/a b")]
        {
            let Err(RawFailure::Unanswered(error)) = call(path, metadata).await else { panic!("{path} was sent") };
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(told) && !error.report().contains("canary"), "{error}");
        }
    }

    #[test]
    fn the_address_that_was_called_longest_ago_gives_way() {
        let shared = Shared::default();
        let first = shared.endpoint("host-0:1");
        for number in 1..ADDRESS_COUNT_MAX {
            shared.endpoint(&format!("host-{number}:1"));
        }
        assert!(Arc::ptr_eq(&first, &shared.endpoint("host-0:1")));
        shared.endpoint("another:1");
        let endpoints = shared.endpoints.lock().unwrap();
        assert_eq!(endpoints.len(), ADDRESS_COUNT_MAX);
        assert!(endpoints.contains_key("host-0:1") && !endpoints.contains_key("host-1:1"));
    }
}
