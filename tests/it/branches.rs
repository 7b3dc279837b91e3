//! A participant that DTM calls over gRPC: the call's branch, its barrier in the service's own database,
//! and the status that DTM reads.

use std::time::Duration;

use micro_rs::{
    core::{
        barrier::{Barrier, BarrierExt as _, BarrierStore as _},
        branch::{Branch, BranchError, Mode, Op},
    },
    grpc::{BranchCall, GrpcServer},
    prelude::{Component as _, Error, ErrorKind, Health, TransactionManagerExt as _},
    tx::{SqlBarrier, SqlConfig, SqlDatabase, SqlTxExt as _},
};
use micro_testkit::unique;
use tonic::{Code, Request, Response, Status, transport::Channel};

#[allow(missing_docs, unreachable_pub, dead_code)]
mod proto {
    include!("../../micro-grpc/tests/it/go_micro/generated/busi.rs");
}

use proto::{BusiReply, BusiRequest, busi_client::BusiClient, busi_server};

/// How long a database may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The product service of the chain in its second architecture: stock is deducted, and given back.
#[derive(Clone)]
struct Product {
    database: SqlDatabase,
    barrier: SqlBarrier,
}

impl Product {
    async fn new(database: SqlDatabase, table: &str) -> Self {
        let barrier = database.barrier_with(table).unwrap();
        barrier.create_table().await.unwrap();
        database
            .execute_script(
                "CREATE TABLE stocks (sku VARCHAR(64) PRIMARY KEY, stock BIGINT NOT NULL); \
                 INSERT INTO stocks VALUES ('A-17', 5)",
            )
            .await
            .unwrap();
        Self { database, barrier }
    }

    async fn change(&self, request: Request<BusiRequest>, count: i64) -> Result<Response<BusiReply>, Status> {
        let call = BranchCall::of(&request)?;
        let what = request.into_inner().what;
        let mut barrier = call.barrier();
        let changed = self.database.run_with_barrier(&self.barrier, &mut barrier, async |tx| {
            match what.as_str() {
                "locked" => return Err(Error::new(ErrorKind::Aborted, "stock.change", "a lock was lost").into()),
                "busy" => return Err(BranchError::Ongoing),
                _ => {}
            }
            let update = "UPDATE stocks SET stock = stock + ? WHERE sku = ? AND stock + ? >= 0";
            let done = tx.sql()?.execute(update, &[count.into(), what.as_str().into(), count.into()]).await?;
            if done == 0 {
                return Err(BranchError::failed("too few, or no such goods"));
            }
            Ok(())
        });
        call.answer(changed.await.map(|_| BusiReply {}))
    }

    async fn stock(&self) -> i64 {
        self.database.fetch_optional("SELECT stock FROM stocks", &[]).await.unwrap().unwrap().get(0).unwrap()
    }

    async fn rows(&self, table: &str, gid: &str) -> Vec<[String; 3]> {
        let select = format!("SELECT op, barrier_id, reason FROM {table} WHERE gid = ? ORDER BY id");
        let rows = self.database.fetch_all(&select, &[gid.into()]).await.unwrap();
        rows.iter().map(|row| [0, 1, 2].map(|column| row.get(column).unwrap())).collect()
    }
}

#[tonic::async_trait]
impl busi_server::Busi for Product {
    async fn act(&self, request: Request<BusiRequest>) -> Result<Response<BusiReply>, Status> {
        self.change(request, -1).await
    }

    async fn comp(&self, request: Request<BusiRequest>) -> Result<Response<BusiReply>, Status> {
        self.change(request, 1).await
    }

    /// The question after a two-phase message.
    async fn trans_in(&self, request: Request<BusiRequest>) -> Result<Response<BusiReply>, Status> {
        let call = BranchCall::of(&request)?;
        let gid = &call.branch().ok_or_else(|| Status::invalid_argument("a coordinator asks"))?.gid;
        let answer = match self.barrier.prepared(gid).await {
            Ok(prepared) => prepared.answer(),
            Err(error) => Err(error.into()),
        };
        call.answer(answer.map(|()| BusiReply {}))
    }

    async fn trans_in_revert(&self, _: Request<BusiRequest>) -> Result<Response<BusiReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn trans_out(&self, _: Request<BusiRequest>) -> Result<Response<BusiReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn trans_out_revert(&self, _: Request<BusiRequest>) -> Result<Response<BusiReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn xa_out(&self, _: Request<BusiRequest>) -> Result<Response<BusiReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn xa_in(&self, _: Request<BusiRequest>) -> Result<Response<BusiReply>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Calls as DTM's server does.
struct Coordinator {
    client: BusiClient<Channel>,
    _server: GrpcServer,
}

impl Coordinator {
    async fn of(product: &Product) -> Self {
        let service = busi_server::BusiServer::new(product.clone());
        let server = GrpcServer::builder("product").add_service(service).build().unwrap();
        server.start(&Health::new()).await.unwrap();
        let address = server.local_addr().unwrap();
        let client = BusiClient::connect(format!("http://{address}")).await.unwrap();
        Self { client, _server: server }
    }

    async fn call(&self, gid: &str, trans_type: &'static str, op: &'static str, what: &str) -> Code {
        let mut request = Request::new(BusiRequest { what: what.to_owned() });
        request.set_timeout(2 * ANSWER_MAX);
        let id = if op == "msg" { "00" } else { "01" };
        for (name, value) in [("gid", gid), ("trans_type", trans_type), ("branch_id", id), ("op", op), ("dtm", "")] {
            let name: tonic::metadata::MetadataKey<_> = format!("dtm-{name}").parse().unwrap();
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        let mut client = self.client.clone();
        let answer = match op {
            "action" => client.act(request).await,
            "compensate" => client.comp(request).await,
            _ => client.trans_in(request).await,
        };
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    }
}

/// What each branch of a saga may be met with, on the table of this name.
async fn a_branch_is_called(product: Product, table: &str) {
    let dtm = Coordinator::of(&product).await;
    let row = |op: &str, reason: &str| [op, "01", reason].map(str::to_owned);

    // An action, again, its compensation, again.
    let gid = unique("gid");
    for (op, stock) in [("action", 4), ("action", 4), ("compensate", 5), ("compensate", 5)] {
        assert_eq!(dtm.call(&gid, "saga", op, "A-17").await, Code::Ok);
        assert_eq!(product.stock().await, stock, "{op}");
    }
    assert_eq!(product.rows(table, &gid).await, [row("action", "action"), row("compensate", "compensate")]);

    // Null compensation, and the action that hangs behind it.
    let gid = unique("gid");
    for op in ["compensate", "action"] {
        assert_eq!(dtm.call(&gid, "saga", op, "A-17").await, Code::Ok);
        assert_eq!(product.stock().await, 5, "{op}");
    }
    assert_eq!(product.rows(table, &gid).await, [row("action", "compensate"), row("compensate", "compensate")]);

    // ABORTED is a failure, FAILED_PRECONDITION is ongoing, all else is asked again; none leaves a row, so
    // that the same branch can succeed.
    for (what, code) in [
        ("no such goods", Code::Aborted),
        ("busy", Code::FailedPrecondition),
        ("locked", Code::Unavailable),
        ("A-17", Code::Ok),
    ] {
        let gid = unique("gid");
        assert_eq!(dtm.call(&gid, "saga", "action", what).await, code, "{what}");
        assert_eq!(product.rows(table, &gid).await.len(), usize::from(code == Code::Ok), "{what}");
        assert_eq!(dtm.call(&gid, "saga", "action", "A-17").await, Code::Ok);
        assert_eq!(dtm.call(&gid, "saga", "compensate", "A-17").await, Code::Ok);
        assert_eq!(product.stock().await, 5);
    }

    // Asked after a message whose local transaction never came: rolled back for good.
    let gid = unique("gid");
    assert_eq!(dtm.call(&gid, "msg", "msg", "").await, Code::Aborted);
    let mut late = Barrier::new(Branch::new(Mode::Msg, &gid, "00", Op::Msg).unwrap());
    let late = product.database.run(async |tx| late.enter(&product.barrier, tx).await).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

async fn connected(url: String) -> SqlDatabase {
    let mut config = SqlConfig::new(url);
    (config.acquire_timeout, config.write_acquire_timeout) = (ANSWER_MAX, ANSWER_MAX);
    (config.connect_timeout, config.lock_timeout, config.busy_timeout) = (ANSWER_MAX, ANSWER_MAX, ANSWER_MAX);
    SqlDatabase::connect(config).await.unwrap()
}

/// A saga branch with DTM's metadata, on the Go product service's table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_dtm_calls_works_on_the_table_products_barrier() {
    let base = match dev_servers::shared(dev_servers::Kind::Mariadb) {
        Ok(base) => base,
        Err(reason) => {
            assert!(std::env::var("MICRO_TEST_REQUIRE").is_err(), "MariaDB is missing and required: {reason}");
            eprintln!("skipped, MariaDB is missing: {reason}");
            return;
        }
    };
    let server = connected(format!("{base}/mysql")).await;
    let name = unique("product").replace('-', "_");
    server.execute_script(&format!("CREATE DATABASE {name}")).await.unwrap();
    let database = connected(format!("{base}/{name}")).await;
    let run = tokio::spawn({
        let database = database.clone();
        async move { a_branch_is_called(Product::new(database, "products.barrier").await, "products.barrier").await }
    });
    let outcome = run.await;
    database.close().await;
    server.execute_script(&format!("DROP DATABASE {name}")).await.unwrap();
    server.close().await;
    outcome.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_dtm_calls_works_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("product.db").display());
    let database = connected(url).await;
    a_branch_is_called(Product::new(database.clone(), "barrier").await, "barrier").await;
    database.close().await;
}
