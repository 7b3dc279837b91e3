//! The local part of a message in a transaction, behind the message's barrier: what commits is sent,
//! what does not is not.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result, Tx,
    barrier::{BarrierCall, BarrierStore, Passage, Prepared},
};
use micro_tx::{
    SqlDatabase, SqlTxExt as _,
    dtm::TransactionStatus::{Failed, Succeeded},
};

use super::stage::{Stage, on_each_wire};

on_each_wire! {
    case_63_msg_do_and_submit_db
    case_64_msg_do_and_submit_db_busi_failed
    case_65_msg_do_and_submit_busi_later
    case_67_msg_do_and_submit_db_commit_failed
}

/// The rows of one kind of call, that of a message's local part.
struct Barriers(SqlDatabase);

const NOTE: &str = "INSERT INTO barrier (gid, reason) VALUES (?, ?) ON CONFLICT DO NOTHING";

#[async_trait]
impl BarrierStore for Barriers {
    async fn enter(&self, tx: &mut Tx, call: &BarrierCall<'_>) -> Result<Passage> {
        let values = [call.branch.gid.as_str().into(), "msg".into()];
        let is_first = tx.sql()?.execute(NOTE, &values).await? == 1;
        Ok(if is_first { Passage::Proceed } else { Passage::Duplicate })
    }

    async fn prepared(&self, gid: &str) -> Result<Prepared> {
        self.0.execute(NOTE, &[gid.into(), "rollback".into()]).await?;
        let row = self.0.fetch_optional("SELECT reason FROM barrier WHERE gid = ?", &[gid.into()]).await?;
        let reason: String = row.expect("it was noted").get(0)?;
        Ok(if reason == "msg" { Prepared::Committed } else { Prepared::RolledBack })
    }

    async fn purge(&self, _: Duration, _: usize) -> Result<u64> {
        Ok(0)
    }
}

struct Local {
    database: SqlDatabase,
    barriers: Arc<Barriers>,
    _folder: tempfile::TempDir,
}

impl Local {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("local.db").display());
        let database = SqlDatabase::connect_url(&url).await.unwrap();
        let tables = "CREATE TABLE barrier (gid TEXT PRIMARY KEY, reason TEXT NOT NULL); \
                      CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL); \
                      INSERT INTO accounts VALUES ('A', 100)";
        database.execute_script(tables).await.unwrap();
        Self { barriers: Arc::new(Barriers(database.clone())), database, _folder: folder }
    }

    async fn balance(&self) -> i64 {
        self.database.fetch_all("SELECT balance FROM accounts", &[]).await.unwrap()[0].get(0).unwrap()
    }
}

async fn take_30(tx: &mut Tx) -> Result<()> {
    tx.sql()?.execute("UPDATE accounts SET balance = balance - 30", &[]).await.map(drop)
}

async fn case_63_msg_do_and_submit_db(stage: Stage) {
    let (local, message) = (Local::new().await, stage.message());
    stage.dtm.do_and_submit_in_tx(&message, &local.database, &*local.barriers, take_30).await.unwrap();
    stage.until(&message.gid, Succeeded).await;
    assert_eq!(local.balance().await, 70, "moved once");
    assert_eq!(local.barriers.prepared(&message.gid).await.unwrap(), Prepared::Committed);
    assert_eq!(stage.branches.calls(&message.gid), ["01/action", "02/action"]);
}

async fn case_64_msg_do_and_submit_db_busi_failed(stage: Stage) {
    let (local, message) = (Local::new().await, stage.message());
    let done = stage.dtm.do_and_submit_in_tx(&message, &local.database, &*local.barriers, async |tx: &mut Tx| {
        take_30(tx).await?;
        Err::<(), _>(Error::new(ErrorKind::FailedPrecondition, "transfer", "the account is closed"))
    });
    assert_eq!(done.await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    stage.until(&message.gid, Failed).await;
    assert_eq!(local.balance().await, 100, "nothing changed");
    assert_eq!(stage.branches.calls(&message.gid), [""; 0], "the store was asked, and nobody else");
}

/// DTM asked before the local transaction began, which forbids it.
async fn case_65_msg_do_and_submit_busi_later(stage: Stage) {
    let (local, message) = (Local::new().await, stage.message());
    assert_eq!(local.barriers.prepared(&message.gid).await.unwrap(), Prepared::RolledBack);
    let done = stage.dtm.do_and_submit_in_tx(&message, &local.database, &*local.barriers, take_30).await;
    assert_eq!(done.unwrap_err().kind(), ErrorKind::AlreadyExists);
    stage.until(&message.gid, Failed).await;
    assert_eq!(local.balance().await, 100);
}

/// The transaction is not committed though its body went well.
async fn case_67_msg_do_and_submit_db_commit_failed(stage: Stage) {
    let (local, message) = (Local::new().await, stage.message());
    // A constraint that is looked at when the transaction commits, and not before.
    let table = "CREATE TABLE owed (name TEXT REFERENCES accounts (name) DEFERRABLE INITIALLY DEFERRED)";
    local.database.execute_script(table).await.unwrap();
    let done = stage.dtm.do_and_submit_in_tx(&message, &local.database, &*local.barriers, async |tx: &mut Tx| {
        take_30(tx).await?;
        tx.sql()?.execute("INSERT INTO owed VALUES ('nobody')", &[]).await.map(drop)
    });
    done.await.unwrap_err();
    stage.until(&message.gid, Failed).await;
    assert_eq!(local.balance().await, 100, "nothing changed");
}
