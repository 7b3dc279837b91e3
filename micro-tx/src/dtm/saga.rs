//! Sagas carried out by DTM.

use async_trait::async_trait;
use micro_core::{
    Result,
    saga::{Outcome, Saga, SagaCoordinator},
};

use super::{DtmClient, GlobalTransaction};

/// A [`SagaCoordinator`] that hands sagas to DTM.
///
/// Where DTM's HTTP API is named in the settings, what became of a saga is read there. Over gRPC alone
/// it is read from what submitting answers: a saga that was refused is then rolled back or being rolled
/// back, and [`outcome`](SagaCoordinator::outcome) is `FailedPrecondition`.
#[derive(Clone, Debug)]
pub struct DtmCoordinator {
    client: DtmClient,
}

impl DtmCoordinator {
    pub(crate) fn new(client: DtmClient) -> Self {
        Self { client }
    }
}

#[async_trait]
impl SagaCoordinator for DtmCoordinator {
    async fn submit(&self, saga: Saga) -> Result<Outcome> {
        let transaction = GlobalTransaction::try_from(saga)?;
        self.client.submit_for_outcome("saga.submit", &transaction).await
    }

    async fn outcome(&self, gid: &str) -> Result<Option<Outcome>> {
        match self.client.query(gid).await? {
            Some(details) => Ok(Some(self.client.settled(details).await)),
            None => Ok(None),
        }
    }

    fn check(&self, saga: &Saga) -> Result<()> {
        self.client.check("saga.check", &GlobalTransaction::try_from(saga.clone())?)
    }
}
