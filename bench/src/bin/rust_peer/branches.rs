//! Branches of sagas: they do nothing, or move money in a database, with the barrier or without it.

use std::sync::Arc;

use bench::{
    Result,
    busi::{
        Done, Transfer,
        busi_server::{Busi, BusiServer},
    },
};
use clap::Args;
use micro_core::{
    TransactionManagerExt as _, Tx,
    app::App,
    barrier::BarrierExt as _,
    branch::{BranchError, Mode},
};
use micro_grpc::{BranchCall, GrpcServer};
use micro_tx::{
    SqlBarrier, SqlConfig, SqlDatabase, SqlTxExt as _,
    dtm::{DtmClient, DtmConfig, XaParticipant},
};
use serde_json::json;
use tokio::signal::unix;
use tonic::{Request, Response, Status};

use crate::turns::tell;

/// So many that give and so many that get: what is measured are not waits for one row.
const ACCOUNT_COUNT: u64 = 1_024;

/// What they do.
#[derive(Args)]
pub(crate) struct Options {
    /// Where money is moved, `mysql://…/NAME`; without it nothing is done.
    #[arg(long)]
    database: Option<String>,
    /// Moves it behind the barrier.
    #[arg(long, requires = "database")]
    barrier: bool,
    /// The DTM server that is told of branches of XA, `dtm://HOST:PORT`.
    #[arg(long, requires = "database")]
    dtm: Option<String>,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let mut stop = unix::signal(unix::SignalKind::terminate())?;
    let bank = match &options.database {
        Some(url) => Some(Branches::of(Bank::open(url).await?, &options).await?),
        None => None,
    };
    let server =
        GrpcServer::builder("busi").address("127.0.0.1:0").add_service(BusiServer::new(Busies(bank))).build()?;
    let server = Arc::new(server);
    let running = App::builder("branches").shared_component(server.clone()).build().start().await?;
    let address = server.local_addr().ok_or("a server that runs has an address")?;
    tell(&json!({ "ready": { "address": address.to_string() } }));
    stop.recv().await;
    Ok(running.stop().await?)
}

/// Accounts, and a barrier's table beside them.
#[derive(Clone)]
pub(crate) struct Bank {
    pub(crate) database: SqlDatabase,
    pub(crate) barrier: SqlBarrier,
}

impl Bank {
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let database = SqlDatabase::connect(SqlConfig::new(url)).await?;
        let barrier = database.barrier_with("barrier")?;
        barrier.create_table().await?;
        let accounts: Vec<String> = (0..2 * ACCOUNT_COUNT).map(|id| format!("({id}, 0)")).collect();
        let script = format!(
            "CREATE TABLE IF NOT EXISTS accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL); \
             INSERT IGNORE INTO accounts VALUES {}",
            accounts.join(", ")
        );
        database.execute_script(&script).await?;
        Ok(Self { database, barrier })
    }
}

/// Moves money in a transaction, on other accounts for each global transaction.
pub(crate) async fn post(tx: &mut Tx, gid: &str, amount: i64) -> micro_core::Result<()> {
    let hash = gid
        .bytes()
        .fold(14_695_981_039_346_656_037_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211));
    // With XA the row of the one that gives is locked while the other one is changed.
    let first = if amount < 0 { 0 } else { ACCOUNT_COUNT };
    let account = i64::try_from(first + hash % ACCOUNT_COUNT).unwrap_or_default();
    let update = "UPDATE accounts SET balance = balance + ? WHERE id = ?";
    tx.sql()?.execute(update, &[amount.into(), account.into()]).await.map(drop)
}

/// A branch of whatever mode, in a database.
struct Branches {
    bank: Bank,
    has_barrier: bool,
    xa: Option<XaParticipant>,
}

impl Branches {
    async fn of(bank: Bank, options: &Options) -> Result<Self> {
        let xa = match &options.dtm {
            Some(url) => {
                Some(XaParticipant::new(DtmClient::connect(DtmConfig::from_url(url)?).await?, bank.barrier.clone())?)
            }
            None => None,
        };
        Ok(Self { bank, has_barrier: options.barrier, xa })
    }

    async fn move_money(&self, call: &BranchCall, amount: i64) -> std::result::Result<(), BranchError> {
        let branch = call.branch().ok_or_else(|| BranchError::failed("no coordinator called"))?;
        let body = async |tx: &mut Tx| post(tx, &branch.gid, amount).await;
        match &self.xa {
            Some(participant) if branch.mode == Mode::Xa => {
                participant.serve(Some(branch), body).await?;
            }
            _ if self.has_barrier => {
                self.bank.database.run_with_barrier(&self.bank.barrier, &mut call.barrier(), body).await?;
            }
            _ => self.bank.database.run(body).await?,
        }
        Ok(())
    }
}

struct Busies(Option<Branches>);

impl Busies {
    async fn done(&self, request: Request<Transfer>, sign: i64) -> std::result::Result<Response<Done>, Status> {
        let call = BranchCall::of(&request)?;
        let amount = match request.get_ref().amount.as_str() {
            // The second phase of XA.
            "" => 0,
            amount => {
                let refused = |error| Status::invalid_argument(format!("the amount is none: {error}"));
                amount.parse::<i64>().map_err(refused)?
            }
        };
        let moved = match &self.0 {
            Some(branches) => branches.move_money(&call, sign * amount).await,
            None => Ok::<_, BranchError>(()),
        };
        call.answer(moved.map(|()| Done {}))
    }
}

#[tonic::async_trait]
impl Busi for Busies {
    async fn trans_out(&self, request: Request<Transfer>) -> std::result::Result<Response<Done>, Status> {
        self.done(request, -1).await
    }

    async fn trans_out_revert(&self, request: Request<Transfer>) -> std::result::Result<Response<Done>, Status> {
        self.done(request, 1).await
    }

    async fn trans_in(&self, request: Request<Transfer>) -> std::result::Result<Response<Done>, Status> {
        self.done(request, 1).await
    }

    async fn trans_in_revert(&self, request: Request<Transfer>) -> std::result::Result<Response<Done>, Status> {
        self.done(request, -1).await
    }
}
