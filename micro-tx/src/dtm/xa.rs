//! XA: work in several databases that becomes final together, by their own two-phase commit.

use std::{fmt::Display, time::Duration};

use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Result,
    branch::{Branch, BranchAnswer, Mode, Op, shown_url},
    saga::{BranchCaller as _, BranchRequest},
};
use uuid::Uuid;

use super::{
    BranchIds, DtmClient, GlobalTransaction, TransactionOptions,
    decision::{Called, Calls},
};

/// DTM's own limit of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// An XA transaction: its id, and how patient DTM is. One that is not submitted within
/// [`timeout_to_fail`](TransactionOptions::timeout_to_fail), 35 s by default, is rolled back by DTM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Xa {
    /// The global id: at most 61 bytes of printable ASCII without quotes, for MySQL keeps 64 with the
    /// branch's.
    pub gid: String,
    /// How patient DTM is; the limit of a branch's call counts for our calls of actions as well.
    pub options: TransactionOptions,
}

impl Default for Xa {
    fn default() -> Self {
        Self::new()
    }
}

impl Xa {
    /// A transaction with an id of its own.
    pub fn new() -> Self {
        Self::with_gid(Uuid::now_v7().to_string())
    }

    /// A transaction with the caller's id.
    pub fn with_gid(gid: impl Into<String>) -> Self {
        Self { gid: gid.into(), options: TransactionOptions::default() }
    }

    /// Sets the options.
    #[must_use]
    pub fn options(mut self, options: TransactionOptions) -> Self {
        self.options = options;
        self
    }
}

/// The branches of an XA transaction.
#[derive(Debug)]
pub struct XaBranches {
    client: DtmClient,
    gid: String,
    ids: BranchIds,
    options: TransactionOptions,
    calls: Calls,
}

impl Called for XaBranches {
    fn calls(&mut self) -> &mut Calls {
        &mut self.calls
    }
}

impl XaBranches {
    /// Has a service do its work up to the point where it can be committed. The same `url`
    /// ([`Step::action`](micro_core::saga::Step::action)) is called for the second phase: a service serves
    /// both by `XaParticipant`, or by a client of DTM in another language.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` with the branch's own words where it refuses; else those of the call. After any
    /// of them, and after a call that was dropped, all is rolled back whatever `body` returns: what was not
    /// done must not be committed.
    pub async fn call(&mut self, url: &str, payload: impl Into<Bytes>) -> Result<()> {
        self.calls.begin();
        let done = self.act(url, payload.into()).await;
        self.calls.end(&done);
        done
    }

    async fn act(&mut self, url: &str, payload: Bytes) -> Result<()> {
        let mut called = Branch::new(Mode::Xa, &self.gid, self.ids.next_id()?, Op::Action)?;
        called.coordinator = Some(self.client.address().to_owned());
        called.phase2_url = Some(url.to_owned());
        let request = BranchRequest::new(url, &called)
            .payload(payload)
            .headers(&self.options.headers)
            .timeout(self.options.request_timeout.unwrap_or(CALL_TIMEOUT));
        let not_done = |message: String| {
            Error::new(ErrorKind::FailedPrecondition, "xa.call", message).with_context("url", shown_url(url))
        };
        match self.client.caller().call(request).await? {
            BranchAnswer::Succeeded => Ok(()),
            BranchAnswer::Failed(reason) => Err(not_done(reason)),
            _ => Err(not_done("an action of XA must be done or refused, and this one is ongoing".to_owned())),
        }
    }
}

impl DtmClient {
    /// Has services do their work in `body`, and DTM commit it everywhere where that returns `Ok`, or roll
    /// it back where it returns an error, panics, or is dropped.
    ///
    /// Locks are held in every database from the work to the second phase, and longer where DTM or a
    /// service is away: for short work, between services that are always there.
    ///
    /// # Errors
    ///
    /// Those of `body`. Those of [`prepare`](Self::prepare): then `body` was not run. `FailedPrecondition`
    /// where DTM has rolled back meanwhile, for time was up. Another error after `body` returned `Ok`:
    /// nobody knows whether DTM was told, and if not it rolls back when time is up.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has the work rolled back by a task of its own; where none can be spawned, DTM does when
    /// time is up.
    pub async fn xa<T, E, F>(&self, xa: &Xa, body: F) -> Result<T, E>
    where
        F: AsyncFnOnce(&mut XaBranches) -> Result<T, E>,
        E: From<Error> + Display,
    {
        let mut transaction = GlobalTransaction::new(Mode::Xa, &xa.gid);
        transaction.options = xa.options.clone();
        let (gid, options) = (xa.gid.clone(), xa.options.clone());
        let branches =
            XaBranches { client: self.clone(), gid, ids: BranchIds::default(), options, calls: Calls::default() };
        self.decided("xa.submit", &transaction, branches, body).await
    }
}
