//! Calls the branches of global transactions that are gRPC methods.

use async_trait::async_trait;
use bytes::Bytes;
use http::uri::Authority;
use micro_core::{
    Error, ErrorKind, Metadata, Result,
    branch::{BranchAnswer, shown_url},
    saga::{BranchCaller, BranchRequest},
};
use tonic::{Code, Status};

use super::{RawFailure, RawGrpcClient};
use crate::status::from_status;

/// The text by which older branches say "ongoing" with the code of a failure.
const ONGOING: &str = "ONGOING";

/// Calls branches at `HOST:PORT/package.Service/Method`, in plain text, and reads what they answer as
/// DTM does: `ABORTED` refuses for good, `FAILED_PRECONDITION` is "ongoing", anything else is neither.
///
/// The payload is sent as it is. It is labelled `application/grpc`, which every server takes, where DTM
/// labels it `application/grpc+dtm_raw`, which go-micro's servers take with a codec of the user's alone.
///
/// Source: DTM 1.19, `dtmgimp.DefaultDriver` and `GrpcError2DtmError`.
#[derive(Clone, Debug, Default)]
pub struct GrpcBranchCaller {
    client: RawGrpcClient,
}

impl GrpcBranchCaller {
    /// A caller on this client's connections.
    pub fn new(client: RawGrpcClient) -> Self {
        Self { client }
    }

    /// As [`call`](BranchCaller::call), with the message that comes with a success.
    ///
    /// # Errors
    ///
    /// Those of `call`.
    pub async fn call_for_message(&self, request: BranchRequest<'_>) -> Result<(BranchAnswer, Bytes)> {
        let (address, path) = split(request.url)?;
        let metadata = metadata(&request);
        match self.client.call(address, path, request.payload, &metadata, request.timeout).await {
            Ok(message) => Ok((BranchAnswer::Succeeded, message)),
            Err(RawFailure::Answered(status)) => Ok((answer(request.url, status)?, Bytes::new())),
            Err(RawFailure::Unanswered(error)) => Err(error.with_context("url", shown_url(request.url))),
        }
    }
}

#[async_trait]
impl BranchCaller for GrpcBranchCaller {
    async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
        self.call_for_message(request).await.map(|(answer, _)| answer)
    }

    fn check(&self, request: &BranchRequest<'_>) -> Result<()> {
        let (address, path) = split(request.url)?;
        super::check(address, path, &metadata(request))
    }
}

fn metadata(request: &BranchRequest<'_>) -> Metadata {
    let mut metadata = Metadata::new();
    for (name, value) in request.headers {
        metadata.insert(name, value);
    }
    // Last: headers that came with another branch's call must not say which one this is.
    request.branch.write_metadata(&mut metadata);
    metadata
}

/// Whom to call, and what: divided at the first slash.
fn split(url: &str) -> Result<(&str, &str)> {
    let parts = url.find('/').map(|slash| url.split_at(slash));
    let is_url = |(address, path): &(&str, &str)| {
        let authority = Authority::try_from(*address);
        let is_address =
            authority.is_ok_and(|authority| !authority.host().is_empty() && authority.port_u16().is_some());
        is_address && !address.contains('@') && path.len() > 1 && !path.starts_with("//")
    };
    parts.filter(is_url).ok_or_else(|| {
        let message = "not a branch's URL: expected HOST:PORT/package.Service/Method";
        Error::new(ErrorKind::InvalidArgument, "branch.call", message).with_context("url", shown_url(url))
    })
}

fn answer(url: &str, status: Status) -> Result<BranchAnswer> {
    match (status.code(), status.message()) {
        (Code::FailedPrecondition, _) | (Code::Aborted, ONGOING) => Ok(BranchAnswer::Ongoing),
        (Code::Aborted, reason) => Ok(BranchAnswer::Failed(reason.to_owned())),
        _ => Err(from_status("branch.call", status).with_context("url", shown_url(url))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_address_and_a_path() {
        assert_eq!(split("127.0.0.1:9000/busi.Busi/Pay").unwrap(), ("127.0.0.1:9000", "/busi.Busi/Pay"));
        assert_eq!(split("[::1]:9000/go.micro.service.Order/X").unwrap(), ("[::1]:9000", "/go.micro.service.Order/X"));
        let wrong = [
            "",
            "127.0.0.1:9000",
            "127.0.0.1:9000/",
            "etcd://h:1/busi.Busi/Pay",
            "http://h:1/pay",
            "host/a.B/C",
            ":9/a.B/C",
            "h:/a.B/C",
            "h:http/a.B/C",
            "h:70000/a.B/C",
            "h h:1/a.B/C",
        ];
        // Over gRPC an address has no account.
        let accounts = ["me:secret@h:1/a.B/C", "grpc://me:secret@h:1/a.B/C"];
        for url in wrong.into_iter().chain(accounts) {
            let error = split(url).unwrap_err();
            assert!(error.to_string().contains("expected HOST:PORT/package.Service/Method"), "{url}: {error}");
            assert!(!error.report().contains("secret"), "{error}");
        }
    }

    /// DTM 1.19, as captured: branches that answered each code.
    #[test]
    fn every_code_means_what_it_means_to_dtm() {
        for code in (1..=16).map(Code::from_i32) {
            let answered = answer("h:1/a.B/C", Status::new(code, "not so"));
            match code {
                Code::Aborted => assert_eq!(answered.unwrap(), BranchAnswer::Failed("not so".to_owned())),
                Code::FailedPrecondition => assert_eq!(answered.unwrap(), BranchAnswer::Ongoing),
                _ => assert_eq!(answered.unwrap_err().kind().code(), u8::try_from(code as i32).unwrap()),
            }
        }
        let answered = answer("h:1/a.B/C", Status::aborted("ONGOING"));
        assert_eq!(answered.unwrap(), BranchAnswer::Ongoing);
    }
}
