//! The local part of a message in a transaction, behind the message's barrier: what commits is sent,
//! what does not is not.

use std::any::Any;

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result, TransactionManager, Tx,
    barrier::{BarrierStore as _, Prepared},
    transaction::{ManagerId, Transaction},
};
use micro_tx::{
    SqlDatabase, SqlTxExt as _,
    dtm::TransactionStatus::{Failed, Succeeded},
};

use super::tellers::{Counter, on_each_database, with_tellers};
use crate::server::Server;

on_each_database! {
    case_63_msg_do_and_submit_db
    case_64_msg_do_and_submit_db_busi_failed
    case_65_msg_do_and_submit_busi_later
    case_68_msg_do_and_submit_db_commit_after_failed
}

async fn take_30(tx: &mut Tx) -> Result<()> {
    let update = "UPDATE accounts SET balance = balance - 30 WHERE name = 'out'";
    tx.sql()?.execute(update, &[]).await.map(drop)
}

impl Counter {
    /// A message that moves what was taken to the other account.
    fn notice(&self) -> micro_tx::dtm::TwoPhaseMessage {
        let message = micro_tx::dtm::TwoPhaseMessage::new().query_prepared(self.url("QueryPrepared"));
        message.call(self.url("TransIn"), self.payload("30"))
    }
}

async fn case_63_msg_do_and_submit_db(counter: Counter) {
    let (bank, message) = (&counter.teller.bank, counter.notice());
    counter.dtm.do_and_submit_in_tx(&message, &bank.database, &bank.store, take_30).await.unwrap();
    counter.until(&message.gid, Succeeded).await;
    assert_eq!(counter.teller.accounts().await, ["70+0", "130+0"], "moved once");
    assert_eq!(bank.store.prepared(&message.gid).await.unwrap(), Prepared::Committed);
    assert_eq!(counter.branches.calls(&message.gid), ["01/action"]);
}

async fn case_64_msg_do_and_submit_db_busi_failed(counter: Counter) {
    let (bank, message) = (&counter.teller.bank, counter.notice());
    let done = counter.dtm.do_and_submit_in_tx(&message, &bank.database, &bank.store, async |tx: &mut Tx| {
        take_30(tx).await?;
        Err::<(), _>(Error::new(ErrorKind::FailedPrecondition, "transfer", "the account is closed"))
    });
    assert_eq!(done.await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    counter.until(&message.gid, Failed).await;
    assert_eq!(counter.teller.accounts().await, ["100+0", "100+0"], "nothing changed");
    assert_eq!(counter.branches.calls(&message.gid), [""; 0], "the store was asked, and nobody else");
}

/// DTM asked before the local transaction began, which forbids it.
async fn case_65_msg_do_and_submit_busi_later(counter: Counter) {
    let (bank, message) = (&counter.teller.bank, counter.notice());
    assert_eq!(bank.store.prepared(&message.gid).await.unwrap(), Prepared::RolledBack);
    let done = counter.dtm.do_and_submit_in_tx(&message, &bank.database, &bank.store, take_30).await;
    assert_eq!(done.unwrap_err().kind(), ErrorKind::AlreadyExists);
    counter.until(&message.gid, Failed).await;
    assert_eq!(counter.teller.accounts().await, ["100+0", "100+0"]);
}

/// The transaction is not committed though its body went well: a constraint is looked at when it commits,
/// and not before. MariaDB has none such.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_67_msg_do_and_submit_db_commit_failed() {
    tokio::join!(with_tellers(None, commit_failed), with_tellers(Some(Server::Postgres), commit_failed));
}

async fn commit_failed(counter: Counter) {
    let (bank, message) = (&counter.teller.bank, counter.notice());
    let table = "CREATE TABLE owed (name VARCHAR(64) REFERENCES accounts (name) DEFERRABLE INITIALLY DEFERRED)";
    bank.database.execute_script(table).await.unwrap();
    let done = counter.dtm.do_and_submit_in_tx(&message, &bank.database, &bank.store, async |tx: &mut Tx| {
        take_30(tx).await?;
        tx.sql()?.execute("INSERT INTO owed VALUES ('nobody')", &[]).await.map(drop)
    });
    done.await.unwrap_err();
    counter.until(&message.gid, Failed).await;
    assert_eq!(counter.teller.accounts().await, ["100+0", "100+0"], "nothing changed");
}

/// A database whose commits take place, and nobody hears of it.
struct CommitsInSilence(SqlDatabase);

#[async_trait]
impl TransactionManager for CommitsInSilence {
    async fn begin(&self) -> Result<Tx> {
        Ok(self.0.begin().await?.decorate(|inner| Box::new(Silenced(inner))))
    }

    fn id(&self) -> ManagerId {
        self.0.id()
    }
}

struct Silenced(Box<dyn Transaction>);

#[async_trait]
impl Transaction for Silenced {
    async fn commit(self: Box<Self>) -> Result<()> {
        self.0.commit().await?;
        Err(Error::new(ErrorKind::Unknown, "tx.commit", "the answer is lost"))
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        self.0.rollback().await
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self.0.as_any_mut()
    }
}

/// The store is asked, and nobody else: what committed is sent, and the caller told that it does not know.
async fn case_68_msg_do_and_submit_db_commit_after_failed(counter: Counter) {
    let (bank, message) = (&counter.teller.bank, counter.notice());
    let silent = CommitsInSilence(bank.database.clone());
    let done = counter.dtm.do_and_submit_in_tx(&message, &silent, &bank.store, take_30).await;
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Unknown);
    counter.until(&message.gid, Succeeded).await;
    assert_eq!(counter.teller.accounts().await, ["70+0", "130+0"], "moved once");
    assert_eq!(bank.store.prepared(&message.gid).await.unwrap(), Prepared::Committed);
    assert_eq!(counter.branches.calls(&message.gid), ["01/action"], "nobody asked by a call");
}
