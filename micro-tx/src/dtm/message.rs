//! Two-phase messages: calls that come about if and only if a local transaction commits.

use std::time::Duration;

use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Result, TransactionManager, Tx,
    barrier::{Barrier, BarrierExt as _, BarrierStore, Prepared},
    branch::{Branch, BranchAnswer, Mode, Op},
    saga::{BranchCaller as _, BranchRequest, Outcome, Step},
};
use uuid::Uuid;

use super::{DtmClient, GlobalTransaction, TransactionOptions, global::whole_seconds};

/// The branch that stands for the local transaction.
const LOCAL_BRANCH: &str = "00";
/// DTM's own limit of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Calls that DTM makes until they succeed: at once, or once a local transaction has committed.
///
/// A branch may not refuse: DTM would call it again for ever. Branches are called one after the other.
///
/// # Examples
///
/// ```
/// use micro_tx::dtm::TwoPhaseMessage;
///
/// let message = TwoPhaseMessage::new()
///     .call("127.0.0.1:9000/shop.Product/Deduct", &b"two of A-17"[..])
///     .topic("order-paid", &b"A-17"[..])
///     .query_prepared("127.0.0.1:9001/shop.Order/QueryPrepared");
/// assert_eq!(message.steps[1].action, "topic://order-paid");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TwoPhaseMessage {
    /// The global id, 1 to 128 bytes without line breaks and `;`; default a UUID.
    /// Whoever submits it again submits the same message.
    pub gid: String,
    /// The calls; what undoes them does not count.
    pub steps: Vec<Step>,
    /// Where DTM asks whether the local transaction committed: as [`Step::action`].
    pub query_prepared: String,
    /// How patient DTM is. After [`timeout_to_fail`](TransactionOptions::timeout_to_fail), 35 s by default
    /// and up to 13 s later, it asks about a message that is only prepared.
    pub options: TransactionOptions,
    /// The calls are made so long after the message was begun and not before; whole seconds, rounded up.
    pub delay: Option<Duration>,
}

impl Default for TwoPhaseMessage {
    fn default() -> Self {
        Self::new()
    }
}

impl TwoPhaseMessage {
    /// A message without calls, with an id of its own.
    pub fn new() -> Self {
        Self::with_gid(Uuid::now_v7().to_string())
    }

    /// A message with the caller's id.
    pub fn with_gid(gid: impl Into<String>) -> Self {
        Self {
            gid: gid.into(),
            steps: Vec::new(),
            query_prepared: String::new(),
            options: TransactionOptions::default(),
            delay: None,
        }
    }

    /// Adds a call: `HOST:PORT/package.Service/Method` or `http://…`.
    #[must_use]
    pub fn call(mut self, url: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        self.steps.push(Step::new(url).payload(payload));
        self
    }

    /// Adds a call with an encoded message for a body.
    #[must_use]
    pub fn call_with(self, url: impl Into<String>, message: &impl prost::Message) -> Self {
        self.call(url, message.encode_to_vec())
    }

    /// Adds a call of each subscriber that the topic has when the message is begun.
    #[must_use]
    pub fn topic(self, name: &str, payload: impl Into<Bytes>) -> Self {
        self.call(format!("topic://{name}"), payload)
    }

    /// Sets where DTM asks whether the local transaction committed.
    #[must_use]
    pub fn query_prepared(mut self, url: impl Into<String>) -> Self {
        self.query_prepared = url.into();
        self
    }

    /// Sets the options.
    #[must_use]
    pub fn options(mut self, options: TransactionOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets how long after its beginning the calls are made.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    fn to_global(&self) -> GlobalTransaction {
        let mut transaction = GlobalTransaction::new(Mode::Msg, &self.gid);
        transaction.options = self.options.clone();
        transaction.steps = self.steps.clone();
        transaction.query_prepared.clone_from(&self.query_prepared);
        if let Some(delay) = self.delay.filter(|delay| !delay.is_zero()) {
            transaction.custom_data = format!(r#"{{"delay":{}}}"#, whole_seconds(delay));
        }
        transaction
    }
}

impl DtmClient {
    /// Begins a message: DTM keeps it, and calls nobody before it is submitted.
    ///
    /// # Errors
    ///
    /// Those of [`prepare`](Self::prepare).
    pub async fn prepare_message(&self, message: &TwoPhaseMessage) -> Result<()> {
        self.prepare(&message.to_global()).await
    }

    /// Has the calls made, whether the message was begun before or not.
    ///
    /// # Errors
    ///
    /// Those of [`submit`](Self::submit), but for a message that is over: its outcome is answered.
    pub async fn submit_message(&self, message: &TwoPhaseMessage) -> Result<Outcome> {
        self.submit_for_outcome("message.submit", &message.to_global()).await
    }

    /// Gives up a message that is only begun.
    ///
    /// # Errors
    ///
    /// Those of [`abort`](Self::abort).
    pub async fn abort_message(&self, message: &TwoPhaseMessage) -> Result<()> {
        self.abort(&message.to_global()).await
    }

    /// Does the local part between the message's two phases. `body` gets the barrier of the message, and
    /// does its work behind it, so that DTM can be told whether it took place:
    ///
    /// - `Some`: it did, the message is sent;
    /// - `None`: it did not and never will, the message is given up;
    /// - an error: nobody knows. [`query_prepared`](TwoPhaseMessage::query_prepared) is asked, as DTM will ask
    ///   where nothing comes of that, and the error is returned whatever it says.
    ///
    /// Once `body` said `Some`, the message is sent sooner or later: where submitting does not succeed,
    /// that is logged, and DTM asks by itself.
    ///
    /// # Errors
    ///
    /// Those of `body`. `InvalidArgument`, `Unavailable` with DTM's address and the others of
    /// [`prepare`](Self::prepare): then `body` was not run. `FailedPrecondition` where somebody stopped the
    /// message meanwhile.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the message begun: DTM asks `query_prepared`.
    pub async fn do_and_submit<T, E, F>(&self, message: &TwoPhaseMessage, body: F) -> Result<Option<T>, E>
    where
        F: AsyncFnOnce(Barrier) -> Result<Option<T>, E>,
        E: From<Error>,
    {
        let ask = async || self.ask_prepared(message).await;
        self.between_phases(message, body, ask).await
    }

    /// As [`do_and_submit`](Self::do_and_submit), with `body` in a transaction of `manager` behind the
    /// message's barrier in `store`. After an error the store itself is asked, not `query_prepared`; DTM
    /// needs that all the same.
    ///
    /// # Errors
    ///
    /// Those of [`do_and_submit`](Self::do_and_submit); `AlreadyExists` where DTM asked before the commit,
    /// which forbids it.
    pub async fn do_and_submit_in_tx<T, E, F>(
        &self,
        message: &TwoPhaseMessage,
        manager: &(impl TransactionManager + ?Sized),
        store: &dyn BarrierStore,
        body: F,
    ) -> Result<T, E>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<T, E>,
        E: From<Error>,
    {
        let local = async |mut barrier: Barrier| manager.run_with_barrier(store, &mut barrier, body).await;
        let ask = async || {
            Ok(match store.prepared(&message.gid).await? {
                Prepared::Committed => BranchAnswer::Succeeded,
                Prepared::RolledBack => BranchAnswer::Failed("rolled back".to_owned()),
            })
        };
        let done = self.between_phases(message, local, ask).await?;
        done.ok_or_else(|| {
            // The barrier of a message says so by an error.
            let text = "the barrier neither let the message pass nor refused it";
            Error::new(ErrorKind::Internal, "message.submit", text).with_context("gid", &message.gid).into()
        })
    }

    async fn between_phases<T, E, F>(
        &self,
        message: &TwoPhaseMessage,
        body: F,
        ask: impl AsyncFnOnce() -> Result<BranchAnswer>,
    ) -> Result<Option<T>, E>
    where
        F: AsyncFnOnce(Barrier) -> Result<Option<T>, E>,
        E: From<Error>,
    {
        let branch = self.local_branch(message)?;
        self.prepare_message(message).await?;
        match body(Barrier::new(branch)).await {
            Ok(Some(value)) => self.send_on(message).await.map(|()| Some(value)).map_err(E::from),
            Ok(None) => {
                self.give_up(message).await;
                Ok(None)
            }
            Err(error) => {
                match ask().await {
                    Ok(BranchAnswer::Succeeded) => {
                        if let Err(error) = self.send_on(message).await {
                            tracing::warn!(gid = message.gid, error = %error.report(), "a message is not sent");
                        }
                    }
                    Ok(BranchAnswer::Failed(_)) => self.give_up(message).await,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(gid = message.gid, error = %error.report(), "DTM will ask about a message");
                    }
                }
                Err(error)
            }
        }
    }

    /// Submits what must be sent; where that does not succeed, DTM asks.
    async fn send_on(&self, message: &TwoPhaseMessage) -> Result<()> {
        match self.submit_message(message).await {
            Ok(Outcome::RolledBack { reason }) => {
                let text = "the local part took place, but the message was stopped: it is not sent";
                let error = Error::new(ErrorKind::FailedPrecondition, "message.submit", text);
                Err(error.with_context("gid", &message.gid).with_context("reason", reason))
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(
                    gid = message.gid,
                    error = %error.report(),
                    "a message whose local part took place is sent when DTM asks, and not now"
                );
                Ok(())
            }
        }
    }

    async fn give_up(&self, message: &TwoPhaseMessage) {
        if let Err(error) = self.abort_message(message).await {
            tracing::debug!(gid = message.gid, error = %error.report(), "DTM will ask about a message");
        }
    }

    /// What `query_prepared` answers, asked as DTM does.
    async fn ask_prepared(&self, message: &TwoPhaseMessage) -> Result<BranchAnswer> {
        let branch = self.local_branch(message)?;
        let timeout = message.options.request_timeout.unwrap_or(CALL_TIMEOUT);
        let request = BranchRequest::new(&message.query_prepared, &branch);
        self.caller().call(request.headers(&message.options.headers).timeout(timeout)).await
    }

    fn local_branch(&self, message: &TwoPhaseMessage) -> Result<Branch> {
        if message.query_prepared.is_empty() {
            let text = "a message with a local part needs query_prepared: DTM asks there whether it committed";
            return Err(
                Error::new(ErrorKind::InvalidArgument, "message.prepare", text).with_context("gid", &message.gid)
            );
        }
        let mut branch = Branch::new(Mode::Msg, &message.gid, LOCAL_BRANCH, Op::Msg)?;
        branch.coordinator = Some(self.address().to_owned());
        Ok(branch)
    }
}
