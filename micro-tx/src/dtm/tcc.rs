//! Try, confirm, cancel: reservations in several services that become final together, or are given back.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Result,
    branch::{Branch, BranchAnswer, Mode, Op, shown_url},
    saga::{BranchCaller as _, BranchRequest},
};
use uuid::Uuid;

use super::{
    BranchIds, BranchRegistration, DtmClient, GlobalTransaction, TransactionOptions,
    decision::{Called, Calls},
};

/// DTM's own limit of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// A TCC transaction: its id, and how patient DTM is. One that is not submitted within
/// [`timeout_to_fail`](TransactionOptions::timeout_to_fail), 35 s by default, is cancelled by DTM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tcc {
    /// The global id, 1 to 128 bytes without line breaks and `;`; default a UUID.
    pub gid: String,
    /// How patient DTM is; the limit of a branch's call counts for our calls of `try` as well.
    pub options: TransactionOptions,
}

impl Default for Tcc {
    fn default() -> Self {
        Self::new()
    }
}

impl Tcc {
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

    fn to_global(&self) -> GlobalTransaction {
        let mut transaction = GlobalTransaction::new(Mode::Tcc, &self.gid);
        transaction.options = self.options.clone();
        transaction
    }
}

/// One reservation: three calls with the same body. URLs are those of
/// [`Step::action`](micro_core::saga::Step::action).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TccBranch {
    /// Reserves.
    pub try_url: String,
    /// Makes it final; called until it succeeds.
    pub confirm: String,
    /// Gives it back, also where nothing was reserved; called until it succeeds. DTM on SQL keeps 1,024
    /// characters of each of these two.
    pub cancel: String,
    /// The body; default empty. DTM on SQL keeps 65,535 bytes.
    pub payload: Bytes,
}

impl TccBranch {
    /// A reservation with an empty body.
    pub fn new(try_url: impl Into<String>, confirm: impl Into<String>, cancel: impl Into<String>) -> Self {
        Self { try_url: try_url.into(), confirm: confirm.into(), cancel: cancel.into(), payload: Bytes::new() }
    }

    /// Sets the body.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }
}

/// The branches of a TCC transaction, or those below one of its branches.
#[derive(Debug)]
pub struct TccBranches {
    client: DtmClient,
    gid: String,
    ids: BranchIds,
    headers: BTreeMap<String, String>,
    request_timeout: Duration,
    calls: Calls,
}

impl Called for TccBranches {
    fn calls(&mut self) -> &mut Calls {
        &mut self.calls
    }
}

impl TccBranches {
    fn new(client: &DtmClient, gid: &str, ids: BranchIds) -> Self {
        let (client, gid) = (client.clone(), gid.to_owned());
        Self { client, gid, ids, headers: BTreeMap::new(), request_timeout: CALL_TIMEOUT, calls: Calls::default() }
    }

    /// Sends a header with each `try` that follows; of one name the last value counts. DTM sends those of
    /// the [`Tcc`] with `confirm` and `cancel`.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Sets how long a `try` may take, 3 s by default: less than whoever called this branch waits for it.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Makes a reservation: has DTM note it, then calls `try`. What was noted is confirmed or cancelled with
    /// the transaction, whatever `try` answers.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` with the branch's own words where it refuses, and where DTM has cancelled the
    /// transaction meanwhile; else those of the call. After any of them, and after a call that was dropped,
    /// the transaction is cancelled whatever `body` returns: what was not reserved must not be confirmed.
    pub async fn call(&mut self, branch: &TccBranch) -> Result<()> {
        self.calls.begin();
        let reserved = self.reserve(branch).await;
        self.calls.end(&reserved);
        reserved
    }

    async fn reserve(&mut self, branch: &TccBranch) -> Result<()> {
        let id = self.ids.next_id()?;
        let registration = BranchRegistration::new(Mode::Tcc, &self.gid, &id)
            .data("confirm", &branch.confirm)
            .data("cancel", &branch.cancel)
            .payload(branch.payload.clone());
        self.client.register_branch(&registration).await?;
        let mut called = Branch::new(Mode::Tcc, &self.gid, id, Op::Try)?;
        called.coordinator = Some(self.client.address().to_owned());
        let request = BranchRequest::new(&branch.try_url, &called)
            .payload(branch.payload.clone())
            .headers(&self.headers)
            .timeout(self.request_timeout);
        let not_done = |message: String| {
            Error::new(ErrorKind::FailedPrecondition, "tcc.try", message)
                .with_context("url", shown_url(&branch.try_url))
        };
        match self.client.caller().call(request).await? {
            BranchAnswer::Succeeded => Ok(()),
            BranchAnswer::Failed(reason) => Err(not_done(reason)),
            _ => Err(not_done("a try must be done or refused, and this one is ongoing".to_owned())),
        }
    }
}

impl DtmClient {
    /// Makes reservations in `body`, and has DTM confirm them all where it returns `Ok`, or cancel them all
    /// where it returns an error, panics, or is dropped. DTM calls the branches in reverse order.
    ///
    /// # Errors
    ///
    /// Those of `body`. Those of [`prepare`](Self::prepare): then `body` was not run. `FailedPrecondition`
    /// where DTM has cancelled meanwhile, for time was up. Another error after `body` returned `Ok`: nobody
    /// knows whether DTM was told, and if not it cancels when time is up.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has the reservations cancelled by a task of its own; where none can be spawned, DTM does
    /// when time is up.
    pub async fn tcc<T, E, F>(&self, tcc: &Tcc, body: F) -> Result<T, E>
    where
        F: AsyncFnOnce(&mut TccBranches) -> Result<T, E>,
        E: From<Error> + Display,
    {
        let mut branches = TccBranches::new(self, &tcc.gid, BranchIds::default());
        branches.headers.clone_from(&tcc.options.headers);
        branches.request_timeout = tcc.options.request_timeout.unwrap_or(CALL_TIMEOUT);
        self.decided("tcc.submit", &tcc.to_global(), branches, body).await
    }

    /// The branches below one that is called to `try`: a service that reserves in others in its turn. They
    /// are confirmed and cancelled with the transaction, which the one who began it decides; where a
    /// reservation fails, this `try` is to fail as well.
    ///
    /// What the transaction's options say of its branches' calls is not known here: headers and the time
    /// limit of these are named anew.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a branch of something else.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use micro_core::{Result, branch::Branch};
    /// # use micro_tx::dtm::{DtmClient, TccBranch};
    /// # async fn reserve(dtm: DtmClient, called: &Branch) -> Result<()> {
    /// let url = |name: &str| format!("depot:9002/shop.Depot/{name}");
    /// let depot = TccBranch::new(url("Reserve"), url("Take"), url("Release")).payload(&b"two of A-17"[..]);
    /// let mut below = dtm.nested_tcc(called)?.header("x-tenant", "north").request_timeout(Duration::from_secs(1));
    /// below.call(&depot).await
    /// # }
    /// ```
    pub fn nested_tcc(&self, branch: &Branch) -> Result<TccBranches> {
        if (branch.mode, &branch.op) != (Mode::Tcc, &Op::Try) {
            let message = "reservations are made below a branch of a TCC transaction that is called to try";
            return Err(Error::new(ErrorKind::InvalidArgument, "tcc.nested", message)
                .with_context("trans_type", branch.mode.as_str())
                .with_context("op", &branch.op));
        }
        Ok(TccBranches::new(self, &branch.gid, BranchIds::below(&branch.id)))
    }
}
