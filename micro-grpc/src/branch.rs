//! Serving branches of global transactions: which one a call is, and what its coordinator reads.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use micro_core::{
    barrier::Barrier,
    branch::{Branch, BranchError},
};
use tonic::{Code, Request, Response, Status};

use crate::to_status;

/// With what DTM's server calls: its messages are any others', only the label is its own.
const DTM_RAW: &str = "application/grpc+dtm_raw";

/// A served call, which a coordinator may have made: DTM's server, its clients, or the embedded one.
///
/// A status means something else to a coordinator than to others: `ABORTED`, by which a lost conflict is
/// told elsewhere, is a failure for good, and `FAILED_PRECONDITION`, a refusal elsewhere, is "ask again".
/// So what a branch answers goes through [`answer`](Self::answer), which chooses the status by the
/// handler's [`BranchError`]; no status of a plain error ([`to_status`]) means one of the two by accident.
///
/// | outcome, as [`BranchError::decided`] | to a coordinator | where none called |
/// | --- | --- | --- |
/// | success | a message | a message |
/// | `Failed` | `ABORTED`, the reason cut to 600 characters | `FAILED_PRECONDITION` |
/// | `Ongoing` | `FAILED_PRECONDITION` | `UNAVAILABLE` |
/// | `Other`, `Aborted` | `UNAVAILABLE` | `ABORTED` |
/// | `Other`, `FailedPrecondition` | `UNKNOWN` | `FAILED_PRECONDITION` |
/// | `Other`, any other kind | its code | its code |
///
/// DTM asks again at every status but the first two. It gives a branch 3 s by default, as `grpc-timeout`:
/// then the handler is dropped, and its transaction rolled back.
///
/// # Examples
///
/// ```
/// # use tonic::{Request, Response, Status};
/// use micro_core::{Error, barrier::{BarrierExt as _, BarrierStore}, branch::BranchError, transaction::MemoryDatabase};
/// use micro_grpc::BranchCall;
///
/// # struct Deduction { count: i64 }
/// # async fn deduct(database: &MemoryDatabase, request: Request<Deduction>) -> Result<Response<()>, Status> {
/// let call = BranchCall::of(&request)?;
/// let mut barrier = call.barrier();
/// let deduction = request.into_inner();
/// let deducted = database
///     .transactions()
///     .run_with_barrier(&*database.barrier(), &mut barrier, async |_tx| {
///         if deduction.count > 5 {
///             return Err(BranchError::failed("too few of A-17"));
///         }
///         Ok(())
///     })
///     .await;
/// // What was done before, or must not be done any more, is a success as well.
/// call.answer(deducted.map(|_| ()))
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BranchCall {
    branch: Option<Branch>,
    method: Arc<str>,
}

impl BranchCall {
    /// Reads which branch a request calls: metadata `dtm-gid`, `dtm-trans_type`, `dtm-branch_id`, `dtm-op`,
    /// and where they are there `dtm-dtm`, `dtm-phase2_url`.
    ///
    /// # Errors
    ///
    /// The status `INVALID_ARGUMENT` for a part of these, or one that cannot be: proxies that drop names
    /// with `_` (nginx by default) take three of the four away.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let metadata = request.metadata();
        let part = |name: &str| metadata.get(format!("dtm-{name}"))?.to_str().ok().map(str::to_owned);
        let branch = Branch::read(part).map_err(to_status)?;
        let method = request.extensions().get::<Called>().map_or_else(|| "unknown".into(), |called| called.0.clone());
        Ok(Self { branch, method })
    }

    /// The branch; `None` where no coordinator called.
    pub fn branch(&self) -> Option<&Branch> {
        self.branch.as_ref()
    }

    /// The call's barriers, which let everything through where no coordinator called.
    pub fn barrier(&self) -> Barrier {
        Barrier::new(self.branch.clone())
    }

    /// The answer to this outcome.
    ///
    /// # Errors
    ///
    /// The status for a branch that did not succeed.
    pub fn answer<T>(&self, outcome: Result<T, BranchError>) -> Result<Response<T>, Status> {
        outcome.map(Response::new).map_err(|error| self.status(error))
    }

    /// The status by which this is told.
    pub fn status(&self, error: impl Into<BranchError>) -> Status {
        let decided = error.into().decided(&self.method, self.branch.as_ref());
        match self.branch {
            Some(_) => to_a_coordinator(decided),
            None => to_others(decided),
        }
    }
}

fn to_a_coordinator(decided: BranchError) -> Status {
    match decided {
        // The form in which early clients told that they are not done.
        BranchError::Failed(reason) if reason == "ONGOING" => Status::aborted("failed: ONGOING"),
        BranchError::Failed(reason) => Status::aborted(reason),
        BranchError::Ongoing => Status::failed_precondition("ONGOING"),
        BranchError::Other(error) => {
            let status = to_status(error);
            match status.code() {
                Code::Aborted => Status::unavailable(status.message()),
                Code::FailedPrecondition => Status::unknown(status.message()),
                _ => status,
            }
        }
        // Who adds an answer says here how it is told.
        other => Status::unknown(other.to_string()),
    }
}

fn to_others(decided: BranchError) -> Status {
    match decided {
        BranchError::Failed(reason) => Status::failed_precondition(reason),
        BranchError::Ongoing => Status::unavailable("not done yet: call again"),
        BranchError::Other(error) => to_status(error),
        other => Status::unknown(other.to_string()),
    }
}

/// Stands among the extensions of a branch's call: `package.Service/Method`.
#[derive(Clone, Debug)]
pub(crate) struct Called(pub(crate) Arc<str>);

/// Whether a coordinator made the call.
pub(crate) fn is_branch(headers: &HeaderMap) -> bool {
    headers.contains_key("dtm-gid")
}

/// What the answer repeats of the request, as Go's servers do; DTM takes gRPC's own as well.
pub(crate) fn echoed_content_type(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(CONTENT_TYPE).filter(|value| value.as_bytes() == DTM_RAW.as_bytes()).cloned()
}
