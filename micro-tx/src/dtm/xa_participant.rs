//! A service's part in XA transactions: work that is prepared, and committed or rolled back later.

use micro_core::{
    Error, ErrorKind, Result, Tx,
    barrier::{Barrier, Passage},
    branch::{Branch, Mode, Op},
};

use super::{BranchRegistration, DtmClient};
use crate::{
    SqlBarrier,
    xa::{self, Xid},
};

/// A service's part in XA transactions, on MySQL, MariaDB or PostgreSQL.
///
/// PostgreSQL prepares transactions only where `max_prepared_transactions` is above its default of 0; set
/// it to how many branches may be open at a time. MySQL before 8.0.29 and MariaDB before 10.5.2 are refused:
/// there what is prepared belongs to its connection until that is closed, and a commit that comes meanwhile
/// may be answered with success and lost.
///
/// # Examples
///
/// ```no_run
/// # use micro_core::branch::BranchError;
/// # use micro_tx::{SqlTxExt as _, dtm::XaParticipant};
/// # use tonic::{Request, Response, Status};
/// use micro_grpc::BranchCall;
///
/// // One method for action, commit and rollback; the second phase comes with an empty message.
/// # async fn deduct(participant: &XaParticipant, request: Request<()>) -> Result<Response<()>, Status> {
/// let call = BranchCall::of(&request)?;
/// let done = participant
///     .serve(call.branch(), async |tx| {
///         let update = "UPDATE stocks SET stock = stock - 1 WHERE sku = ? AND stock > 0";
///         match tx.sql()?.execute(update, &["A-17".into()]).await? {
///             0 => Err(BranchError::failed("none left")),
///             _ => Ok(()),
///         }
///     })
///     .await;
/// call.answer(done.map(|_| ()))
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct XaParticipant {
    dtm: DtmClient,
    barrier: SqlBarrier,
}

impl XaParticipant {
    /// A participant that works in the barrier's database, and tells this DTM of its branches.
    ///
    /// # Errors
    ///
    /// `Unimplemented` for a database without two-phase commit: SQLite.
    pub fn new(dtm: DtmClient, barrier: SqlBarrier) -> Result<Self> {
        xa::checked(barrier.database())?;
        Ok(Self { dtm, barrier })
    }

    /// Serves a call of a branch. An action runs `body` in a transaction that is then prepared: what it did
    /// is seen by nobody before DTM has it committed. A commit and a rollback end it, on whatever connection
    /// and however often.
    ///
    /// `None` where `body` was not run: in the second phase, and where the action was done, or rolled back,
    /// before. Hooks of [`Tx::after_commit`] do not run.
    ///
    /// # Errors
    ///
    /// Those of `body`; then nothing is left. `InvalidArgument` where no coordinator called, for a branch of
    /// something else than XA, and for a gid that the database cannot keep: MySQL keeps 64 bytes of
    /// `GID-BRANCH`; neither takes quotes. `FailedPrecondition` where PostgreSQL prepares no transactions,
    /// and where DTM has rolled back meanwhile. `Aborted` where the branch is under way: ask again. `DataLoss`
    /// for a commit of what the database knows neither as prepared nor, by the barrier's row, as done: never is
    /// a commit answered with success on the server's word alone.
    ///
    /// # Cancel safety
    ///
    /// A dropped action is undone, unless it is being prepared: then DTM, which knows of it, ends it.
    pub async fn serve<T, E, F>(&self, branch: Option<&Branch>, body: F) -> Result<Option<T>, E>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<T, E>,
        E: From<Error>,
    {
        let branch = branch.ok_or_else(|| {
            let message = "only a coordinator calls a branch of XA: metadata or query parameters are missing";
            Error::new(ErrorKind::InvalidArgument, "xa.serve", message)
        })?;
        if branch.mode == Mode::Xa && branch.op == Op::Action {
            return self.act(branch, body).await;
        }
        self.end(branch).await?;
        Ok(None)
    }

    async fn act<T, E, F>(&self, branch: &Branch, body: F) -> Result<Option<T>, E>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<T, E>,
        E: From<Error>,
    {
        let url = branch.phase2_url.as_deref().ok_or_else(|| {
            let message = "an action of XA says where its second phase is called: phase2_url is missing";
            Error::new(ErrorKind::InvalidArgument, "xa.serve", message).with_context("gid", &branch.gid)
        })?;
        let database = self.barrier.database();
        let xid = Xid::new(database, branch)?;
        database.run_xa(&xid, async |tx| self.work(tx, branch, url, body).await).await
    }

    async fn work<T, E, F>(&self, tx: &mut Tx, branch: &Branch, url: &str, body: F) -> Result<Option<T>, E>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<T, E>,
        E: From<Error>,
    {
        if Barrier::new(branch.clone()).enter(&self.barrier, tx).await? != Passage::Proceed {
            return Ok(None);
        }
        let value = body(tx).await?;
        // Before it is prepared: what DTM does not know nobody would end.
        let registration = BranchRegistration::new(Mode::Xa, &branch.gid, &branch.id).data("url", url);
        self.dtm.register_branch(&registration).await?;
        Ok(Some(value))
    }

    async fn end(&self, branch: &Branch) -> Result<()> {
        let database = self.barrier.database();
        let xid = Xid::new(database, branch)?;
        match (branch.mode, &branch.op) {
            (Mode::Xa, Op::Commit) => {
                database.end_xa(&xid, true).await?;
                self.barrier.check_done(branch).await
            }
            (Mode::Xa, Op::Rollback) => {
                database.end_xa(&xid, false).await?;
                // What is under way at this moment is waited for, or found by the next rollback.
                self.barrier.forbid_action(branch).await
            }
            _ => {
                let message = "not a call of XA: expected an action, a commit or a rollback";
                let error = Error::new(ErrorKind::InvalidArgument, "xa.serve", message);
                Err(error.with_context("trans_type", branch.mode.as_str()).with_context("op", &branch.op))
            }
        }
    }
}
