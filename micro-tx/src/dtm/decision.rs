//! A transaction whose caller decides: submitted where its body succeeds, aborted where it does not.

use std::fmt::Display;

use micro_core::{Error, ErrorKind, Result};

use super::{DtmClient, GlobalTransaction};

/// What DTM's store keeps of a reason.
const REASON_CHARS_MAX: usize = 1000;

/// What the calls of a body came to, which may pass over them: what is not there must not be made final.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// One is under way, or was dropped.
    is_open: bool,
    was_given_up: bool,
    /// Why the first one failed that did.
    failure: Option<String>,
}

impl Calls {
    pub(super) fn begin(&mut self) {
        self.was_given_up |= self.is_open;
        self.is_open = true;
    }

    pub(super) fn end(&mut self, outcome: &Result<()>) {
        self.is_open = false;
        if let Err(error) = outcome {
            self.failure.get_or_insert_with(|| error.to_string());
        }
    }

    /// Why not all of them are done, where they are not.
    fn failure(&self) -> Option<String> {
        let is_given_up = self.is_open || self.was_given_up;
        let given_up = || is_given_up.then(|| "the call was given up before it had its answer".to_owned());
        self.failure.clone().or_else(given_up)
    }
}

/// The branches that a body calls.
pub(super) trait Called {
    fn calls(&mut self) -> &mut Calls;
}

impl DtmClient {
    /// Begins the transaction, runs `body` on its branches, and submits it where that returns `Ok`; has it
    /// aborted where it returns an error, panics, or is dropped, and where a call failed that it passed over.
    pub(super) async fn decided<B, T, E, F>(
        &self,
        operation: &'static str,
        transaction: &GlobalTransaction,
        mut branches: B,
        body: F,
    ) -> Result<T, E>
    where
        B: Called,
        F: AsyncFnOnce(&mut B) -> Result<T, E>,
        E: From<Error> + Display,
    {
        let mut aborts = Aborts { client: self.clone(), transaction: Some(transaction.clone()) };
        if let Err(error) = self.prepare(transaction).await {
            aborts.transaction = None;
            return Err(error.into());
        }
        let done = match (body(&mut branches).await, branches.calls().failure()) {
            (Ok(_), Some(failure)) => {
                let message = "a call of a branch failed, and the body went on: the transaction is cancelled";
                Err(Error::new(ErrorKind::FailedPrecondition, operation, message)
                    .with_context("gid", &transaction.gid)
                    .with_context("call", failure)
                    .into())
            }
            (done, _) => done,
        };
        match done {
            Ok(value) => {
                aborts.transaction = None;
                self.submit_decided(operation, transaction).await?;
                Ok(value)
            }
            Err(error) => {
                // Armed until it is done: the caller may go away meanwhile.
                abort(self, transaction.clone(), &error.to_string()).await;
                aborts.transaction = None;
                Err(error)
            }
        }
    }
}

/// Has a transaction aborted whose body did not come to its end.
struct Aborts {
    client: DtmClient,
    transaction: Option<GlobalTransaction>,
}

impl Drop for Aborts {
    fn drop(&mut self) {
        let (Some(transaction), Ok(runtime)) = (self.transaction.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let client = self.client.clone();
        runtime.spawn(async move { abort(&client, transaction, "the caller panicked or gave up").await });
    }
}

async fn abort(client: &DtmClient, mut transaction: GlobalTransaction, reason: &str) {
    transaction.rollback_reason = reason.chars().take(REASON_CHARS_MAX).collect();
    if let Err(error) = client.abort(&transaction).await {
        tracing::debug!(gid = transaction.gid, error = %error.report(), "DTM aborts it when time is up");
    }
}
