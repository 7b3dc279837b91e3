//! A transaction whose caller decides: submitted where its body succeeds, aborted where it does not.

use std::fmt::Display;

use micro_core::{Error, Result};

use super::{DtmClient, GlobalTransaction};

/// What DTM's store keeps of a reason.
const REASON_CHARS_MAX: usize = 1000;

impl DtmClient {
    /// Begins the transaction, runs `body` on its branches, and submits it where that returns `Ok`; has it
    /// aborted where it returns an error, panics, or is dropped.
    pub(super) async fn decided<B, T, E, F>(
        &self,
        operation: &'static str,
        transaction: &GlobalTransaction,
        mut branches: B,
        body: F,
    ) -> Result<T, E>
    where
        F: AsyncFnOnce(&mut B) -> Result<T, E>,
        E: From<Error> + Display,
    {
        let mut aborts = Aborts { client: self.clone(), transaction: Some(transaction.clone()) };
        if let Err(error) = self.prepare(transaction).await {
            aborts.transaction = None;
            return Err(error.into());
        }
        match body(&mut branches).await {
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
