//! Cases of XA: DTM's own tests of the names that stand there, with a branch in MariaDB and one in
//! PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use dev_servers::Server as OwnServer;
use micro_core::{
    Error, ErrorKind,
    branch::{Branch, BranchError, Mode, Op},
};
use micro_testkit::Missing;
use micro_tx::{
    SqlBarrier, SqlDatabase, SqlTxExt as _,
    dtm::{
        DtmClient, DtmConfig, TransactionOptions,
        TransactionStatus::{Failed, Prepared, Submitted, Succeeded},
        Xa, XaParticipant,
    },
};
use sqlx::{Connection as _, Executor as _, MySqlConnection, Row as _, mysql::MySqlRow};

use super::{
    branches::{Business, Say, Seen},
    stage::{SECOND, Stage, blocking, on_each_wire, options, there},
};
use crate::{
    on_servers::{INSERT, site},
    server::{Server, Site},
};

on_each_wire! {
    case_71_xa_normal
    case_72_xa_rollback
    case_73_xa_duplicate
    case_74_xa_local_error
    case_75_xa_timeout
    case_76_xa_not_timeout
    case_78_xa_cover_gid_error
    a_dropped_xa_is_rolled_back
    a_refusal_that_the_body_swallows_rolls_back_all_the_same
    an_action_that_comes_after_its_rollback_does_nothing
    no_commit_that_comes_at_once_is_lost
}

/// A service that adds a row to its database.
pub(crate) struct Bank {
    pub(crate) method: String,
    pub(crate) database: SqlDatabase,
    pub(crate) barrier: SqlBarrier,
    participant: XaParticipant,
    pub(crate) site: Site,
}

impl Bank {
    pub(crate) async fn open(stage: &Stage, server: Server) -> Option<Self> {
        Some(Self::at(stage, site(server).await?).await)
    }

    async fn at(stage: &Stage, site: Site) -> Self {
        let database = site.database().await;
        let barrier = database.barrier_with("barrier").unwrap();
        barrier.create_table().await.unwrap();
        let participant = XaParticipant::new(stage.dtm.clone(), barrier.clone()).unwrap();
        let method = format!("Xa{:?}", site.server);
        stage.branches.work(&method, Arc::new(Serving(participant.clone())));
        Self { method, database, barrier, participant, site }
    }

    /// How many rows of this transaction others see.
    pub(crate) async fn row_count(&self, gid: &str) -> i64 {
        let count = "SELECT count(*) FROM orders WHERE code LIKE ?";
        let row = self.database.fetch_optional(count, &[format!("{gid}%").into()]).await.unwrap();
        row.unwrap().get(0).unwrap()
    }

    /// How many branches of this transaction are prepared, as the server lists them.
    pub(crate) async fn prepared_count(&self, gid: &str) -> usize {
        let names: Vec<String> = match self.site.server {
            Server::Mariadb => {
                let mut connection = MySqlConnection::connect(&self.site.url()).await.unwrap();
                let rows = connection.fetch_all(sqlx::raw_sql("XA RECOVER")).await.unwrap();
                let name = |row: &MySqlRow| row.try_get_unchecked::<Vec<u8>, _>("data").unwrap();
                rows.iter().map(|row| String::from_utf8_lossy(&name(row)).into_owned()).collect()
            }
            Server::Postgres => {
                let rows = self.database.fetch_all("SELECT gid FROM pg_prepared_xacts", &[]).await.unwrap();
                rows.iter().map(|row| row.get(0).unwrap()).collect()
            }
        };
        names.iter().filter(|name| name.starts_with(gid)).count()
    }
}

/// Its method.
struct Serving(XaParticipant);

#[async_trait]
impl Business for Serving {
    async fn call(&self, seen: &Seen) -> Result<(), BranchError> {
        work(&self.0, &seen.branch, &seen.payload).await.map(drop)
    }
}

/// Adds a row, unless it is told to refuse.
async fn work(participant: &XaParticipant, branch: &Branch, payload: &str) -> Result<Option<()>, BranchError> {
    let code: String = format!("{}-{}", branch.gid, branch.id).chars().take(64).collect();
    participant
        .serve(Some(branch), async |tx| {
            tx.sql()?.execute(INSERT, &[code.as_str().into(), "worked".into()]).await?;
            if payload.contains("refuse") { Err(BranchError::failed("the account is closed")) } else { Ok(()) }
        })
        .await
}

/// A branch in each database.
pub(crate) async fn banks(stage: &Stage) -> Option<[Bank; 2]> {
    Some([Bank::open(stage, Server::Mariadb).await?, Bank::open(stage, Server::Postgres).await?])
}

fn xa(change: impl FnOnce(&mut TransactionOptions)) -> Xa {
    let mut options = options();
    change(&mut options);
    Xa::new().options(options)
}

fn waiting() -> Xa {
    xa(|options| options.is_waited_for = true)
}

async fn case_71_xa_normal(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let xa = waiting();
    let done = stage.dtm.xa(&xa, async |branches| {
        for bank in &banks {
            branches.call(&stage.url(&bank.method), stage.payload("30")).await?;
        }
        assert_eq!(stage.status(&xa.gid).await, Prepared);
        for bank in &banks {
            assert_eq!(bank.row_count(&xa.gid).await, 0, "{}: seen by nobody", bank.method);
            bank.site.until_quiet("nothing is open beside what is prepared").await;
        }
        Ok::<_, Error>(17)
    });
    assert_eq!(done.await.unwrap(), 17);
    stage.until(&xa.gid, Succeeded).await;
    for bank in &banks {
        assert_eq!(bank.row_count(&xa.gid).await, 1, "{}", bank.method);
    }
    assert_eq!(stage.states(&xa.gid).await, ["prepared", "succeed", "prepared", "succeed"]);
    assert_eq!(stage.branches.calls(&xa.gid), ["01/action", "02/action", "01/commit", "02/commit"]);
    let seen = stage.branches.seen(&xa.gid);
    assert_eq!(seen[0].branch.phase2_url.as_deref(), Some(&*stage.url(&banks[0].method)));
    assert_eq!(seen[0].branch.coordinator.as_deref(), Some(stage.dtm.address()), "our own call");
    assert_eq!(seen[2].payload, "", "the second phase has no body");
}

async fn case_72_xa_rollback(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    // Either database is the one that has to undo what is prepared.
    for [first, second] in [[0, 1], [1, 0]] {
        let xa = xa(|_| {});
        let done = stage.dtm.xa(&xa, async |branches| {
            branches.call(&stage.url(&banks[first].method), stage.payload("30")).await?;
            branches.call(&stage.url(&banks[second].method), stage.payload("refuse")).await
        });
        let error = done.await.unwrap_err();
        assert!(error.message().contains("the account is closed"), "{error}");
        stage.until(&xa.gid, Failed).await;
        assert_eq!(stage.branches.calls(&xa.gid), ["01/action", "02/action", "01/rollback"]);
        assert!(stage.reason(&xa.gid).await.contains("the account is closed"));
        for bank in &banks {
            assert_eq!(bank.row_count(&xa.gid).await, 0);
            bank.site.until_quiet("nothing is open").await;
        }
    }
}

/// A branch that somebody committed by hand is committed.
async fn case_73_xa_duplicate(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let xa = waiting();
    let done = stage.dtm.xa(&xa, async |branches| {
        for (bank, id) in banks.iter().zip(["01", "02"]) {
            branches.call(&stage.url(&bank.method), stage.payload("30")).await?;
            let commit = Branch::new(Mode::Xa, &xa.gid, id, Op::Commit)?;
            assert_eq!(work(&bank.participant, &commit, "").await.unwrap(), None);
            assert_eq!(bank.row_count(&xa.gid).await, 1);
        }
        Ok::<_, Error>(())
    });
    done.await.unwrap();
    stage.until(&xa.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&xa.gid)[2..], ["01/commit", "02/commit"]);
}

async fn case_74_xa_local_error(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let xa = xa(|_| {});
    let done = stage.dtm.xa(&xa, async |branches| {
        for bank in &banks {
            branches.call(&stage.url(&bank.method), stage.payload("30")).await?;
        }
        Err::<(), _>(Error::new(ErrorKind::FailedPrecondition, "transfer", "not today"))
    });
    assert_eq!(done.await.unwrap_err().to_string(), "transfer: not today");
    stage.until(&xa.gid, Failed).await;
    assert_eq!(stage.reason(&xa.gid).await, "transfer: not today");
    for bank in &banks {
        assert_eq!(bank.row_count(&xa.gid).await, 0);
    }
}

async fn case_75_xa_timeout(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let xa = xa(|options| {
        options.timeout_to_fail = Some(SECOND);
        options.retry_interval = Some(4 * SECOND);
    });
    let done = stage.dtm.xa(&xa, async |branches| {
        branches.call(&stage.url(&banks[0].method), stage.payload("30")).await?;
        stage.until(&xa.gid, Failed).await;
        // Too late: it is not prepared, for DTM does not know it any more.
        let late = branches.call(&stage.url(&banks[1].method), stage.payload("30")).await;
        assert_eq!(late.unwrap_err().kind(), ErrorKind::FailedPrecondition);
        Ok::<_, Error>(())
    });
    assert_eq!(done.await.unwrap_err().kind(), ErrorKind::FailedPrecondition, "submitting is refused");
    assert_eq!(stage.branches.calls(&xa.gid), ["01/action", "01/rollback", "02/action"]);
    for bank in &banks {
        assert_eq!(bank.row_count(&xa.gid).await, 0);
        bank.site.until_quiet("nothing is open").await;
    }
}

/// A commit that does not succeed at once is asked for again.
async fn case_76_xa_not_timeout(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let xa = xa(|options| {
        options.is_waited_for = true;
        options.retry_interval = Some(4 * SECOND);
    });
    stage.branches.script(&xa.gid, "01/commit", [Say::Oops]);
    let done = stage.dtm.xa(&xa, async |branches| {
        for bank in &banks {
            branches.call(&stage.url(&bank.method), stage.payload("30")).await?;
        }
        Ok::<_, Error>(())
    });
    done.await.unwrap();
    assert_eq!(stage.status(&xa.gid).await, Submitted);
    stage.until(&xa.gid, Succeeded).await;
    for bank in &banks {
        assert_eq!(bank.row_count(&xa.gid).await, 1);
    }
}

/// A database that is away in the second phase has what was prepared when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_77_xa_cover_db_error() {
    for server in [Server::Mariadb, Server::Postgres] {
        let Some(stage) = Stage::shared(super::stage::Wire::Grpc).await else { return };
        let own = there(blocking(move || OwnServer::start(server.kind())).await.map_err(Missing::new));
        let Some(mut own) = own else { return };
        let bank = Bank::at(&stage, Site::at(server, own.url().to_owned()).await).await;
        let xa = xa(|options| options.retry_interval = Some(SECOND));
        let done = stage.dtm.xa(&xa, async |branches| {
            branches.call(&stage.url(&bank.method), stage.payload("30")).await?;
            own.kill();
            Ok::<_, Error>(())
        });
        done.await.unwrap();
        stage.until_called(&xa.gid, 2).await;
        assert_eq!(stage.status(&xa.gid).await, Submitted);
        let own = blocking(move || own.restart().map(|()| own)).await.unwrap();
        stage.until(&xa.gid, Succeeded).await;
        assert_eq!(bank.row_count(&xa.gid).await, 1);
        drop(bank);
        drop(own);
    }
}

async fn case_78_xa_cover_gid_error(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    for gid in ["' or 1=1 -- ".to_owned() + &Xa::new().gid, "a\"b".to_owned() + &Xa::new().gid] {
        for bank in &banks {
            let xa = Xa::with_gid(format!("{gid}{}", bank.method));
            let done =
                stage.dtm.xa(&xa, async |branches| branches.call(&stage.url(&bank.method), stage.payload("30")).await);
            let error = done.await.unwrap_err();
            assert!(error.message().contains("printable ASCII") || error.message().contains("shorter gid"), "{error}");
        }
    }
    // MySQL keeps 64 bytes, PostgreSQL more.
    let long = "g".repeat(62 - Xa::new().gid.len()) + &Xa::new().gid;
    for (bank, is_taken) in banks.iter().zip([false, true]) {
        let xa = Xa::with_gid(&long);
        let branch = branch_of(&xa, Op::Action);
        let outcome = work(&bank.participant, &branch, "refuse").await.unwrap_err();
        match outcome {
            BranchError::Failed(reason) => assert!(is_taken && reason.contains("closed")),
            outcome => {
                let told = outcome.to_string();
                assert!(!is_taken && told.contains("bytes=65") && told.contains("bytes_max=64"), "{told}");
            }
        }
    }
}

fn branch_of(xa: &Xa, op: Op) -> Branch {
    let mut branch = Branch::new(Mode::Xa, &xa.gid, "01", op).unwrap();
    branch.phase2_url = Some("127.0.0.1:1/busi.Busi/Nobody".to_owned());
    branch
}

/// A call that names no branch, or one of something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_79_xa_grpc_type() {
    let Some(stage) = Stage::shared(super::stage::Wire::Grpc).await else { return };
    let Some(banks) = banks(&stage).await else { return };
    for bank in &banks {
        let of = async |branch: Option<&Branch>| {
            let served = bank.participant.serve(branch, async |_| -> Result<(), Error> { panic!("not XA's") });
            served.await.unwrap_err()
        };
        let error = of(None).await;
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.message().contains("metadata"), "{error}");
        let saga = Branch::new(Mode::Saga, "g", "01", Op::Action).unwrap();
        let error = of(Some(&saga)).await;
        assert!(error.to_string().contains("trans_type=saga"), "{error}");
        let without_url = Branch::new(Mode::Xa, "g", "01", Op::Action).unwrap();
        assert!(of(Some(&without_url)).await.message().contains("phase2_url"));
    }
}

async fn a_dropped_xa_is_rolled_back(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let xa = xa(|options| options.retry_interval = Some(SECOND));
    let begun = stage.dtm.xa(&xa, async |branches| {
        for bank in &banks {
            branches.call(&stage.url(&bank.method), stage.payload("30")).await?;
        }
        std::future::pending::<Result<(), Error>>().await
    });
    tokio::select! {
        _ = begun => unreachable!("it waits for ever"),
        () = stage.until_called(&xa.gid, 2) => {}
    }
    stage.until(&xa.gid, Failed).await;
    assert_eq!(stage.reason(&xa.gid).await, "the caller panicked or gave up");
    for bank in &banks {
        bank.site.until_quiet("an action given up half-way is undone").await;
        assert_eq!(bank.row_count(&xa.gid).await, 0);
    }
}

/// A branch of which nothing is prepared would be committed without a word.
async fn a_refusal_that_the_body_swallows_rolls_back_all_the_same(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let xa = xa(|_| {});
    let done = stage.dtm.xa(&xa, async |branches| {
        branches.call(&stage.url(&banks[0].method), stage.payload("30")).await?;
        branches.call(&stage.url(&banks[1].method), stage.payload("refuse")).await.unwrap_err();
        Ok::<_, Error>(())
    });
    let error = done.await.unwrap_err();
    assert!(error.to_string().contains("the body went on: the transaction is cancelled"), "{error}");
    stage.until(&xa.gid, Failed).await;
    for bank in &banks {
        assert_eq!(bank.row_count(&xa.gid).await, 0, "{}", bank.method);
    }
}

async fn an_action_that_comes_after_its_rollback_does_nothing(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    for bank in &banks {
        let xa = xa(|_| {});
        for _ in 0..2 {
            assert_eq!(work(&bank.participant, &branch_of(&xa, Op::Rollback), "").await.unwrap(), None);
        }
        assert_eq!(work(&bank.participant, &branch_of(&xa, Op::Action), "30").await.unwrap(), None, "not run");
        assert_eq!(bank.row_count(&xa.gid).await, 0);
        bank.site.until_quiet("nothing is open").await;
        let rows = "SELECT op, barrier_id, reason FROM barrier WHERE gid = ?";
        let rows = bank.database.fetch_all(rows, &[xa.gid.as_str().into()]).await.unwrap();
        assert_eq!(rows.len(), 1);
        let [op, id, reason] = [0, 1, 2].map(|index| rows[0].get::<String>(index).unwrap());
        assert_eq!([&*op, &id, &reason], ["action", "01", "rollback"]);
    }
}

/// What another client has prepared, and its connection still holds, is unknown to MariaDB on every other one:
/// not to be taken for what was committed before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_its_connection_still_holds_is_not_taken_for_committed() {
    let Some(stage) = Stage::shared(super::stage::Wire::Grpc).await else { return };
    let Some(bank) = Bank::open(&stage, Server::Mariadb).await else { return };
    let xa = Xa::new();
    let mut holder = MySqlConnection::connect(&bank.site.url()).await.unwrap();
    let name = format!("'{}-01'", xa.gid);
    let script = format!(
        "XA START {name}; INSERT INTO orders VALUES ('{gid}-01', 'worked'); \
         INSERT INTO barrier (trans_type, gid, branch_id, op, barrier_id, reason) \
         VALUES ('xa', '{gid}', '01', 'action', '01', 'action'); XA END {name}; XA PREPARE {name}",
        gid = xa.gid
    );
    holder.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(script))).await.unwrap();
    let error = work(&bank.participant, &branch_of(&xa, Op::Commit), "").await.unwrap_err();
    assert!(matches!(&error, BranchError::Other(error) if error.kind() == ErrorKind::Aborted), "{error}");
    holder.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(format!("XA COMMIT {name}")))).await.unwrap();
    assert_eq!(work(&bank.participant, &branch_of(&xa, Op::Commit), "").await.unwrap(), None);
    assert_eq!(bank.row_count(&xa.gid).await, 1);
}

/// A server that knows nothing of a branch may have committed it, or lost it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_what_is_neither_prepared_nor_done_is_no_success() {
    let Some(stage) = Stage::shared(super::stage::Wire::Grpc).await else { return };
    let Some(banks) = banks(&stage).await else { return };
    for bank in &banks {
        let xa = Xa::new();
        let error = work(&bank.participant, &branch_of(&xa, Op::Commit), "").await.unwrap_err();
        let BranchError::Other(error) = error else { panic!("{error}: DTM would not ask again") };
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert!(error.to_string().contains(&format!("gid={}, branch=01", xa.gid)), "{error}");
        // A rolled back one has a row that says so, and is no more committed than this.
        assert_eq!(work(&bank.participant, &branch_of(&xa, Op::Rollback), "").await.unwrap(), None);
        let error = work(&bank.participant, &branch_of(&xa, Op::Commit), "").await.unwrap_err();
        assert!(error.to_string().contains("neither as prepared nor as done"), "{error}");
    }
}

/// On MariaDB some of such commits were lost while what is prepared was parted from its connection by closing
/// that.
async fn no_commit_that_comes_at_once_is_lost(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let in_pool = "SELECT count(*) FROM information_schema.processlist WHERE db = ?";
    for bank in &banks {
        let gids = futures_util::future::join_all((0..8).map(async |_| {
            let mut gids = Vec::new();
            for _ in 0..12 {
                let xa = xa(|options| options.request_timeout = Some(30 * SECOND));
                let done = stage.dtm.xa(&xa, async |branches| {
                    branches.call(&stage.url(&bank.method), stage.payload("30")).await?;
                    // By somebody who is faster than DTM.
                    let commit = branch_of(&xa, Op::Commit);
                    work(&bank.participant, &commit, "").await.map_err(|error| match error {
                        BranchError::Other(error) => error,
                        other => panic!("{other}"),
                    })?;
                    assert_eq!(bank.row_count(&xa.gid).await, 1, "{}", bank.method);
                    Ok::<_, Error>(())
                });
                done.await.unwrap();
                gids.push(xa.gid);
            }
            gids
        }));
        for gid in gids.await.concat() {
            stage.until(&gid, Succeeded).await;
            assert_eq!(bank.row_count(&gid).await, 1, "{}", bank.method);
        }
        if bank.site.server == Server::Mariadb {
            let row = bank.database.fetch_optional(in_pool, &[bank.site.name().into()]).await.unwrap();
            let count: i64 = row.unwrap().get(0).unwrap();
            assert!(count <= 16, "actions run on the pool's connections: {count}");
        }
    }
}

/// PostgreSQL's default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_prepares_nothing_says_what_to_set() {
    let Some(stage) = Stage::shared(super::stage::Wire::Grpc).await else { return };
    let settings = &[("max_prepared_transactions", "0")];
    let own = blocking(|| OwnServer::start_with(Server::Postgres.kind(), settings)).await.map_err(Missing::new);
    let Some(own) = there(own) else { return };
    let bank = Bank::at(&stage, Site::at(Server::Postgres, own.url().to_owned()).await).await;
    let xa = xa(|_| {});
    let done =
        stage.dtm.xa(&xa, async |branches| branches.call(&stage.url(&bank.method), stage.payload("30")).await).await;
    let error = done.unwrap_err();
    assert!(error.message().contains("set max_prepared_transactions above 0"), "{error}");
    stage.until(&xa.gid, Failed).await;
    assert_eq!(bank.row_count(&xa.gid).await, 0);
    bank.site.until_quiet("nothing is open").await;
}

#[tokio::test]
async fn xa_on_sqlite_is_refused_before_anything_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("xa.db").display());
    let database = SqlDatabase::connect_url(&url).await.unwrap();
    let dtm = DtmClient::new(DtmConfig::from_url("dtm://127.0.0.1:1").unwrap()).unwrap();
    let error = XaParticipant::new(dtm, database.barrier()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
    assert!(error.message().contains("MySQL, MariaDB and PostgreSQL"), "{error}");
}
