//! Sagas of two branches whose outcome is waited for, on a DTM server or on the embedded coordinator.

use std::sync::Arc;

use bench::{Failure, Result, busi::Transfer};
use clap::Args;
use micro_core::{
    Health,
    app::Component as _,
    saga::{EmbeddedCoordinator, Outcome, Saga, SagaCoordinator, SagaOptions, Step},
};
use micro_grpc::GrpcBranchCaller;
use micro_tx::{
    SqlConfig, SqlDatabase,
    dtm::{DtmClient, DtmConfig},
};

use crate::turns::{self, in_loops};

/// Who carries them out, and where their branches are.
#[derive(Args)]
pub(crate) struct Options {
    /// A DTM server, `dtm://HOST:PORT`.
    #[arg(long, required_unless_present = "log")]
    dtm: Option<String>,
    /// The embedded coordinator, with its log in this database.
    #[arg(long, conflicts_with = "dtm")]
    log: Option<String>,
    /// `host:port` of the branches.
    #[arg(long)]
    branches: String,
}

pub(crate) async fn run(Options { dtm, log, branches }: Options) -> Result<()> {
    let coordinator: Arc<dyn SagaCoordinator> = match (dtm, log) {
        (Some(url), _) => Arc::new(DtmClient::connect(DtmConfig::from_url(&url)?).await?.coordinator()),
        (None, Some(url)) => Arc::new(embedded(&url).await?),
        (None, None) => return Err("expected --dtm or --log".into()),
    };
    let mut options = SagaOptions::default();
    options.is_waited_for = true;
    let saga = move || {
        let step = |name: &str| {
            let at = format!("{branches}/busi.Busi/{name}");
            Step::new(&at).compensation(format!("{at}Revert")).message(&Transfer { amount: "30".to_owned() })
        };
        Saga::new().step(step("TransOut")).step(step("TransIn")).options(options.clone())
    };
    turns::run(async |turn| {
        in_loops(turn, |_, task| {
            let (coordinator, saga) = (coordinator.clone(), saga.clone());
            async move {
                while task.goes_on() {
                    match coordinator.submit(saga()).await? {
                        Outcome::Succeeded => task.add(),
                        other => return Err(Failure::from(format!("a saga ended otherwise: {other:?}"))),
                    }
                }
                Ok(())
            }
        })
        .await
    })
    .await
}

async fn embedded(url: &str) -> Result<EmbeddedCoordinator> {
    let database = SqlDatabase::connect(SqlConfig::new(url)).await?;
    database.migrate().await?;
    let coordinator = EmbeddedCoordinator::builder(
        database.transactions(),
        database.saga_log(),
        Arc::new(GrpcBranchCaller::default()),
    )
    .build();
    coordinator.start(&Health::new()).await?;
    Ok(coordinator)
}
