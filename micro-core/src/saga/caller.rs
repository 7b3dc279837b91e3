//! How a coordinator reaches the participants.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Result,
    branch::{Branch, BranchAnswer},
};

/// One call of a branch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BranchRequest<'a> {
    /// Who is called: `HOST:PORT/package.Service/Method`, `http://…` or `https://…`.
    pub url: &'a str,
    /// Which call it is.
    pub branch: &'a Branch,
    /// The body.
    pub payload: Bytes,
    /// Sent with it; names are lower case.
    pub headers: &'a BTreeMap<String, String>,
    /// How long it may take.
    pub timeout: Duration,
}

impl<'a> BranchRequest<'a> {
    /// A call without a body and headers, that may take 3 s (DTM's default).
    pub fn new(url: &'a str, branch: &'a Branch) -> Self {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        Self { url, branch, payload: Bytes::new(), headers: &NONE, timeout: Duration::from_secs(3) }
    }

    /// Sets the body.
    #[must_use]
    pub fn payload(mut self, payload: Bytes) -> Self {
        self.payload = payload;
        self
    }

    /// Sets what is sent with it.
    #[must_use]
    pub fn headers(mut self, headers: &'a BTreeMap<String, String>) -> Self {
        self.headers = headers;
        self
    }

    /// Sets how long it may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Calls branches by their URLs, and reads what they answer by DTM's rules.
#[async_trait]
pub trait BranchCaller: Send + Sync + 'static {
    /// Calls a branch once.
    ///
    /// # Errors
    ///
    /// Whatever is none of the three answers: the branch may have taken effect or not, and has to be
    /// called again. `InvalidArgument` for a URL that this caller does not understand.
    async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer>;

    /// Whether it could make this call, by what is known without asking anybody: the URL's form, headers
    /// and payload. A coordinator asks it before it takes a saga, for afterwards such a call would be made
    /// again for ever. Which URLs there are is the caller's to say; one that takes all answers `Ok`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`: [`call`](Self::call) would be refused each time, and nothing be sent.
    fn check(&self, request: &BranchRequest<'_>) -> Result<()>;
}
