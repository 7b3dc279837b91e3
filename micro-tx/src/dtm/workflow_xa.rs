//! A workflow's branch whose work is prepared, and committed or rolled back with the workflow.

use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Result, Tx,
    branch::{Branch, BranchError},
};

use super::{
    WorkflowBranch,
    workflow_branch::enter,
    workflow_record::Label,
    workflow_run::{Run, XA_WORK},
};
use crate::{SqlBarrier, xa::Xid};

impl WorkflowBranch {
    /// Runs `body` in a transaction of the barrier's database as its action, and prepares it: what it did is
    /// seen by nobody before the workflow succeeds, and is then committed, or rolled back where the workflow
    /// refuses. Answers with its value, which DTM keeps. MySQL, MariaDB and PostgreSQL can do that, set up as
    /// for [`XaParticipant`](super::XaParticipant).
    ///
    /// Its locks are held until then, over all branches that follow and over each pause of DTM's where the
    /// workflow is interrupted: make it one of the last. A run that resumes finds what was prepared, and does
    /// not do it again; hooks of [`Tx::after_commit`] do not run.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); an error of a permanent kind is a refusal, of which nothing is left. So are
    /// a gid that the database cannot keep (MySQL: 64 bytes of `GID-BRANCH`; neither takes quotes), SQLite,
    /// which has no two-phase commit, a PostgreSQL that prepares nothing, and a MySQL 8 that does not tell
    /// what is prepared after a run was interrupted (grant `XA_RECOVER_ADMIN`). `Other` with `Aborted` where
    /// another process is at it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use micro_core::branch::BranchError;
    /// # use micro_tx::{SqlBarrier, SqlTxExt as _, dtm::Workflow};
    /// # use bytes::Bytes;
    /// async fn pay(mut workflow: Workflow, barrier: SqlBarrier, data: Bytes) -> Result<Bytes, BranchError> {
    ///     let stock = workflow.branch()?.on_rollback_call("product:9000/shop.Product/GiveBack", data.clone());
    ///     stock.call("product:9000/shop.Product/Deduct", data).await?;
    ///     let payment = workflow.branch()?;
    ///     payment
    ///         .run_in_xa(&barrier, async |tx| {
    ///             let update = "UPDATE accounts SET balance = balance - 30 WHERE name = ? AND balance >= 30";
    ///             match tx.sql()?.execute(update, &["mine".into()]).await? {
    ///                 0 => Err(BranchError::failed("too little")),
    ///                 _ => Ok(Bytes::new()),
    ///             }
    ///         })
    ///         .await
    /// }
    /// ```
    pub async fn run_in_xa<F>(self, barrier: &SqlBarrier, body: F) -> Result<Bytes, BranchError>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<Bytes, BranchError>,
    {
        let (committed, undone) = (barrier.clone(), barrier.clone());
        let branch = self
            .on_commit(move |branch| async move { commit(&committed, &branch).await })
            .on_rollback(move |branch| async move { roll_back(&undone, &branch).await })
            // It may be prepared where the database did not tell.
            .undone_when_refused();
        let (run, label) = (branch.run.clone(), Label::new(branch.run.name(), "xa"));
        let action = async |branch: Branch| {
            let done = act(&run, &label, barrier, &branch, body).await;
            done.map_err(|error| error.decided("workflow.run_in_xa", Some(&branch)))
        };
        branch.recorded(&label, action).await
    }
}

async fn act<F>(run: &Run, label: &Label, barrier: &SqlBarrier, branch: &Branch, body: F) -> Result<Bytes, BranchError>
where
    F: AsyncFnOnce(&mut Tx) -> Result<Bytes, BranchError>,
{
    let database = barrier.database();
    let xid = Xid::new(database, branch)?;
    // An earlier run, which ended between the two records.
    if let Some(value) = run.worked(&branch.id)
        && database.is_prepared(&xid).await?
    {
        return Ok(value);
    }
    let done = database.run_xa(&xid, async |tx| {
        if !enter(barrier, tx, branch).await? {
            return Ok(None);
        }
        let value = body(tx).await?;
        // Before it is prepared, so that whoever finds it prepared finds its value as well.
        run.record_work(&branch.id, label, &value).await?;
        Ok(Some(value))
    });
    // Committed by somebody's hand, it gave what was recorded.
    done.await.map(|value: Option<Bytes>| value.or_else(|| run.worked(&branch.id)).unwrap_or_default())
}

async fn commit(barrier: &SqlBarrier, branch: &Branch) -> Result<(), BranchError> {
    let database = barrier.database();
    database.end_xa(&Xid::new(database, branch)?, true).await?;
    Ok(barrier.check_done(branch).await?)
}

async fn roll_back(barrier: &SqlBarrier, branch: &Branch) -> Result<(), BranchError> {
    let database = barrier.database();
    // What has no name there was not begun.
    let Ok(xid) = Xid::new(database, branch) else { return Ok(()) };
    database.end_xa(&xid, false).await?;
    // One that is under way at this moment is waited for, or found by the next attempt.
    Ok(barrier.forbid_action(branch).await?)
}

/// How many times the work may be interrupted between its record and its being prepared.
const WORK_COUNT_MAX: usize = 99;

/// The first one has the Go client's name.
fn work_op(number: usize) -> String {
    if number == 1 { XA_WORK.to_owned() } else { format!("{XA_WORK}-{number}") }
}

impl Run {
    /// What the work of this branch gave the last time that it was done.
    fn worked(&self, branch_id: &str) -> Option<Bytes> {
        let numbers = (1..=WORK_COUNT_MAX).map_while(|number| self.value_of(branch_id, &work_op(number)));
        numbers.last()
    }

    /// Notes what the work of this branch gave.
    async fn record_work(&self, branch_id: &str, label: &Label, value: &Bytes) -> Result<()> {
        for number in 1..=WORK_COUNT_MAX {
            let op = work_op(number);
            if self.value_of(branch_id, &op).is_none() && self.record_value(branch_id, &op, label, value).await? {
                return Ok(());
            }
        }
        let message = "a branch's work was interrupted each time before it was prepared";
        Err(Error::new(ErrorKind::Internal, "workflow.run_in_xa", message)
            .with_context("gid", self.gid())
            .with_context("branch", branch_id)
            .with_context("count_max", WORK_COUNT_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_of_work_has_the_name_of_dtms_go_client() {
        assert_eq!([work_op(1), work_op(2), work_op(99)], ["business", "business-2", "business-99"]);
    }
}
