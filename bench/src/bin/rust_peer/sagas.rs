//! Global transactions of two branches whose outcome is waited for: sagas, on a DTM server or on the
//! embedded coordinator, and DTM's other modes.

use std::sync::Arc;

use bench::{Failure, Result, busi::Transfer};
use clap::{Args, ValueEnum};
use micro_core::{
    Health, Tx,
    app::Component as _,
    saga::{EmbeddedCoordinator, Outcome, Saga, SagaCoordinator, SagaOptions, Step},
};
use micro_grpc::{GrpcBranchCaller, GrpcServer};
use micro_tx::{
    SqlConfig, SqlDatabase,
    dtm::{
        DtmClient, DtmConfig, Tcc, TccBranch, TransactionOptions, TwoPhaseMessage, WorkflowExecution, WorkflowOutcome,
        Workflows, Xa,
    },
};
use prost::Message as _;
use tokio::net::TcpListener;

use crate::{
    branches::{Bank, post},
    turns::{self, Loop, in_loops},
};

/// Who carries them out, and where their branches are.
#[derive(Args)]
pub(crate) struct Options {
    /// A DTM server, `dtm://HOST:PORT`.
    #[arg(long, required_unless_present = "log")]
    dtm: Option<String>,
    /// The embedded coordinator, with its log in this database.
    #[arg(long, conflicts_with_all = ["dtm", "mode"])]
    log: Option<String>,
    /// `host:port` of the branches.
    #[arg(long)]
    branches: String,
    /// What they are.
    #[arg(long, value_enum, default_value_t = Mode::Saga)]
    mode: Mode,
    /// Where a message's local part is.
    #[arg(long)]
    database: Option<String>,
}

/// Kinds of global transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Out, then in.
    Saga,
    /// Out in a transaction of this process, then in.
    Message,
    /// Out and in are tried, then both confirmed.
    Tcc,
    /// Out and in are prepared, then both committed.
    Xa,
    /// A function that calls out and in.
    Workflow,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let client = Client::connect(options).await?;
    turns::run(async |turn| {
        in_loops(turn, |_, task| {
            let client = client.clone();
            async move { client.work(&task).await }
        })
        .await
    })
    .await
}

/// Has transactions of one kind carried out.
#[derive(Clone)]
enum Client {
    Saga {
        coordinator: Arc<dyn SagaCoordinator>,
        at: String,
    },
    Message {
        dtm: DtmClient,
        bank: Bank,
        at: String,
    },
    Tcc {
        dtm: DtmClient,
        at: String,
    },
    Xa {
        dtm: DtmClient,
        at: String,
    },
    /// The server is there for DTM, which may have one go on.
    Workflow {
        workflows: Workflows,
        _server: Arc<GrpcServer>,
    },
}

impl Client {
    async fn connect(Options { dtm, log, branches, mode, database }: Options) -> Result<Self> {
        let at = format!("{branches}/busi.Busi");
        let Some(url) = dtm else {
            let coordinator = Arc::new(embedded(&log.ok_or("expected --dtm or --log")?).await?);
            return Ok(Self::Saga { coordinator, at });
        };
        let dtm = DtmClient::connect(DtmConfig::from_url(&url)?).await?;
        Ok(match mode {
            Mode::Saga => Self::Saga { coordinator: Arc::new(dtm.coordinator()), at },
            Mode::Message => {
                let bank = Bank::open(&database.ok_or("a message's local part needs --database")?).await?;
                Self::Message { dtm, bank, at }
            }
            Mode::Tcc => Self::Tcc { dtm, at },
            Mode::Xa => Self::Xa { dtm, at },
            Mode::Workflow => workflows(dtm, at).await?,
        })
    }

    async fn work(&self, task: &Loop) -> Result<()> {
        while task.goes_on() {
            self.once().await?;
            task.add();
        }
        Ok(())
    }

    async fn once(&self) -> Result<()> {
        match self {
            Self::Saga { coordinator, at } => {
                let step = |name: &str| {
                    let url = format!("{at}/{name}");
                    Step::new(&url).compensation(format!("{url}Revert")).message(&transfer())
                };
                let mut options = SagaOptions::default();
                options.is_waited_for = true;
                let saga = Saga::new().step(step("TransOut")).step(step("TransIn")).options(options);
                match coordinator.submit(saga).await? {
                    Outcome::Succeeded => Ok(()),
                    other => Err(Failure::from(format!("a saga ended otherwise: {other:?}"))),
                }
            }
            Self::Message { dtm, bank, at } => {
                let message = TwoPhaseMessage::new()
                    .call_with(format!("{at}/TransIn"), &transfer())
                    .query_prepared(format!("{at}/QueryPrepared"))
                    .options(waited_for());
                let local = async |tx: &mut Tx| post(tx, &message.gid, -30).await;
                Ok(dtm.do_and_submit_in_tx(&message, &bank.database, &bank.barrier, local).await?)
            }
            Self::Tcc { dtm, at } => {
                let branch = |name: &str| {
                    let url = format!("{at}/{name}");
                    TccBranch::new(&url, &url, &url).payload(transfer().encode_to_vec())
                };
                let tcc = Tcc::new().options(waited_for());
                let tried = dtm.tcc(&tcc, async |branches| {
                    branches.call(&branch("TransOut")).await?;
                    branches.call(&branch("TransIn")).await
                });
                Ok(tried.await?)
            }
            Self::Xa { dtm, at } => {
                let xa = Xa::new().options(waited_for());
                let prepared = dtm.xa(&xa, async |branches| {
                    branches.call(&format!("{at}/TransOut"), transfer().encode_to_vec()).await?;
                    branches.call(&format!("{at}/TransIn"), transfer().encode_to_vec()).await
                });
                Ok(prepared.await?)
            }
            Self::Workflow { workflows, .. } => {
                let execution = WorkflowExecution::new("transfer", transfer().encode_to_vec());
                match workflows.execute(execution).await? {
                    WorkflowOutcome::Succeeded(_) => Ok(()),
                    other => Err(Failure::from(format!("a workflow ended otherwise: {other:?}"))),
                }
            }
        }
    }
}

fn transfer() -> Transfer {
    Transfer { amount: "30".to_owned() }
}

fn waited_for() -> TransactionOptions {
    let mut options = TransactionOptions::default();
    options.is_waited_for = true;
    options
}

async fn embedded(url: &str) -> Result<EmbeddedCoordinator> {
    let database = SqlDatabase::connect(SqlConfig::new(url)).await?;
    database.migrate().await?;
    let caller = Arc::new(GrpcBranchCaller::default());
    let coordinator = EmbeddedCoordinator::builder(database.transactions(), database.saga_log(), caller).build();
    coordinator.start(&Health::new()).await?;
    Ok(coordinator)
}

async fn workflows(dtm: DtmClient, at: String) -> Result<Client> {
    let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string();
    let workflows = Workflows::builder(dtm, &address)
        .register("transfer", move |mut workflow, data| {
            let at = at.clone();
            async move {
                let out = workflow.branch()?.on_rollback_call(format!("{at}/TransOutRevert"), data.clone());
                out.call(&format!("{at}/TransOut"), data.clone()).await?;
                let into = workflow.branch()?.on_rollback_call(format!("{at}/TransInRevert"), data.clone());
                into.call(&format!("{at}/TransIn"), data).await
            }
        })
        .build()?;
    let server = GrpcServer::builder("workflows").address(&address).add_service(workflows.grpc_service()).build()?;
    server.start(&Health::new()).await?;
    Ok(Client::Workflow { workflows, _server: Arc::new(server) })
}
