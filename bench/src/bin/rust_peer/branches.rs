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
use micro_core::{TransactionManagerExt as _, Tx, app::App, barrier::BarrierExt as _, branch::BranchError};
use micro_grpc::{BranchCall, GrpcServer};
use micro_tx::{SqlBarrier, SqlConfig, SqlDatabase, SqlTxExt as _};
use serde_json::json;
use tokio::signal::unix;
use tonic::{Request, Response, Status};

use crate::turns::tell;

/// One for each caller at the least: what is measured are not waits for one row.
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
}

pub(crate) async fn run(Options { database, barrier }: Options) -> Result<()> {
    let mut stop = unix::signal(unix::SignalKind::terminate())?;
    let bank = match database {
        Some(url) => Some(Bank::open(&url, barrier).await?),
        None => None,
    };
    let server =
        GrpcServer::builder("busi").address("127.0.0.1:0").add_service(BusiServer::new(Branches(bank))).build()?;
    let server = Arc::new(server);
    let running = App::builder("branches").shared_component(server.clone()).build().start().await?;
    let address = server.local_addr().ok_or("a server that runs has an address")?;
    tell(&json!({ "ready": { "address": address.to_string() } }));
    stop.recv().await;
    Ok(running.stop().await?)
}

/// Accounts.
struct Bank {
    database: SqlDatabase,
    barrier: Option<SqlBarrier>,
}

impl Bank {
    async fn open(url: &str, has_barrier: bool) -> Result<Self> {
        let database = SqlDatabase::connect(SqlConfig::new(url)).await?;
        let barrier = database.barrier_with("barrier")?;
        barrier.create_table().await?;
        let accounts: Vec<String> = (0..ACCOUNT_COUNT).map(|id| format!("({id}, 0)")).collect();
        let script = format!(
            "CREATE TABLE IF NOT EXISTS accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL); \
             INSERT IGNORE INTO accounts VALUES {}",
            accounts.join(", ")
        );
        database.execute_script(&script).await?;
        Ok(Self { database, barrier: has_barrier.then_some(barrier) })
    }

    async fn move_money(&self, call: &BranchCall, amount: i64) -> std::result::Result<(), BranchError> {
        // Another account for each saga.
        let gid = call.branch().map_or("", |branch| branch.gid.as_str());
        let hash = gid.bytes().fold(14_695_981_039_346_656_037_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211)
        });
        let account = i64::try_from(hash % ACCOUNT_COUNT).unwrap_or_default();
        let post = async |tx: &mut Tx| {
            let update = "UPDATE accounts SET balance = balance + ? WHERE id = ?";
            tx.sql()?.execute(update, &[amount.into(), account.into()]).await.map(drop)
        };
        match &self.barrier {
            Some(store) => self.database.run_with_barrier(store, &mut call.barrier(), post).await.map(drop)?,
            None => self.database.run(post).await?,
        }
        Ok(())
    }
}

struct Branches(Option<Bank>);

impl Branches {
    async fn done(&self, request: Request<Transfer>, sign: i64) -> std::result::Result<Response<Done>, Status> {
        let call = BranchCall::of(&request)?;
        let amount = &request.get_ref().amount;
        let amount: std::result::Result<i64, _> = amount.parse();
        let amount = amount.map_err(|error| Status::invalid_argument(format!("the amount is none: {error}")))?;
        let moved = match &self.0 {
            Some(bank) => bank.move_money(&call, sign * amount).await,
            None => Ok::<_, BranchError>(()),
        };
        call.answer(moved.map(|()| Done {}))
    }
}

#[tonic::async_trait]
impl Busi for Branches {
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
