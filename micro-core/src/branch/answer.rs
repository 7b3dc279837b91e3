//! What a participant answers to its coordinator, and what becomes of it on the way there.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Mutex, PoisonError},
};

use super::Branch;
use crate::{Error, ErrorKind};

/// The longest reason of a failure that is told, in characters. DTM's SQL stores keep 1,024 of it, the
/// branch's URL and 28 of DTM's own, so that the URL may have 396. Of more DTM 1.19 panics: the saga is
/// rolled back when it is looked at again, and the reason is lost.
pub const FAILURE_CHARS_MAX: usize = 600;

/// Why a branch did not succeed, as its coordinator is told.
///
/// A handler answers `Result<T, BranchError>`. An [`Error`] that comes by `?` is
/// [`Other`](Self::Other), and is decided by its kind:
///
/// | | where [the branch may fail](Branch::may_fail) | elsewhere |
/// | --- | --- | --- |
/// | [`Failed`](Self::Failed) | failed: rolled back | failed, which DTM takes for an unknown error: a warning, once |
/// | [`Ongoing`](Self::Ongoing) | ongoing: asked again, after the same pause | the same |
/// | an error of a permanent kind ([`Error::is_permanent`]) | failed, for its text | an unknown error |
/// | any other error | an unknown error: asked again, after growing pauses | the same |
///
/// `NotFound` is not permanent: what is asked for may come later. Who knows that it does not answers
/// [`Failed`](Self::Failed).
///
/// # Examples
///
/// ```
/// use micro_core::{Error, ErrorKind, branch::{Branch, BranchError, Mode, Op}};
///
/// let action = Branch::new(Mode::Saga, "order-1", "01", Op::Action)?;
/// let error = || Error::new(ErrorKind::FailedPrecondition, "stock.deduct", "too few of A-17");
/// let decided = BranchError::from(error()).decided("shop.Product/Deduct", Some(&action));
/// assert!(matches!(decided, BranchError::Failed(reason) if reason == "stock.deduct: too few of A-17"));
///
/// // A compensation may not fail: it is asked for until it is done.
/// let undoing = Branch::new(Mode::Saga, "order-1", "01", Op::Compensate)?;
/// let decided = BranchError::from(error()).decided("shop.Product/GiveBack", Some(&undoing));
/// assert!(matches!(decided, BranchError::Other(_)));
/// # Ok::<_, Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum BranchError {
    /// Refused for good, for this reason: the transaction is to be rolled back.
    Failed(String),
    /// Not done yet: ask again after the same pause.
    Ongoing,
    /// Anything else.
    Other(Error),
}

impl BranchError {
    /// Refused for good, for this reason.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::Failed(reason.into())
    }

    /// What is told of it to the coordinator that called `method` as this branch; without a branch, to
    /// who called it otherwise. An error of a permanent kind becomes a failure where the branch may fail;
    /// a reason is cut to [`FAILURE_CHARS_MAX`].
    ///
    /// Warns, once for each method and operation of the process, of a failure where none is allowed.
    #[must_use]
    pub fn decided(self, method: &str, branch: Option<&Branch>) -> Self {
        let may_fail = branch.is_some_and(Branch::may_fail);
        match self {
            Self::Other(error) if error.is_permanent() && may_fail => Self::Failed(cut(error.to_string())),
            Self::Failed(reason) => {
                if let Some(branch) = branch.filter(|_| !may_fail) {
                    warn_once(method, branch, &reason);
                }
                Self::Failed(cut(reason))
            }
            decided => decided,
        }
    }
}

impl From<Error> for BranchError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl fmt::Display for BranchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) => write!(f, "the branch failed: {reason}"),
            Self::Ongoing => f.write_str("the branch is not done yet"),
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BranchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Other(error) => error.source(),
            Self::Failed(_) | Self::Ongoing => None,
        }
    }
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(FAILURE_CHARS_MAX) {
        text.truncate(end);
    }
    text
}

/// How many methods are remembered; of further ones nothing is said.
const WARNED_COUNT_MAX: usize = 1_024;

fn warn_once(method: &str, branch: &Branch, reason: &str) {
    static WARNED: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.len() >= WARNED_COUNT_MAX || !warned.insert((method.to_owned(), branch.op.to_string())) {
        return;
    }
    drop(warned);
    tracing::warn!(
        method,
        trans_type = branch.mode.as_str(),
        op = branch.op.as_str(),
        gid = branch.gid,
        reason,
        "a branch answered that it failed where DTM does not take that for an answer: it is asked again for ever, \
         with growing pauses, until it succeeds (said once)"
    );
}

/// An HTTP answer of a branch: what DTM's server reads, and nothing that it could misread.
///
/// DTM looks for the words `ONGOING` and `FAILURE` in the whole body, before it looks at the status: one
/// of them in a success, the name of a state in an order say, would roll the transaction back. In bodies
/// made here they stand where they are meant and nowhere else; in a value they are written with an escape
/// of JSON, which every reader of JSON undoes.
///
/// | outcome | status | body |
/// | --- | --- | --- |
/// | success | 200 | the value; `{"dtm_result":"SUCCESS"}` for `()` |
/// | [`BranchError::Failed`] | 409 | `{"dtm_result":"FAILURE","message":…}` |
/// | [`BranchError::Ongoing`] | 425 | `{"dtm_result":"ONGOING"}` |
/// | [`BranchError::Other`] | 500 | `{"error":…}` |
///
/// The parts of the branch are query parameters: [`Branch::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// JSON: `content-type: application/json`.
    pub body: String,
}

impl HttpAnswer {
    /// The answer to the call of `method` as this branch, or as none: decided as [`BranchError::decided`]
    /// says.
    pub fn of<T: serde::Serialize>(method: &str, branch: Option<&Branch>, outcome: Result<T, BranchError>) -> Self {
        let error = match outcome.map(|value| serde_json::to_string(&value)) {
            Ok(Ok(body)) if body == "null" => return Self::new(200, r#"{"dtm_result":"SUCCESS"}"#.to_owned()),
            Ok(Ok(body)) => return Self::new(200, without_words(&body)),
            Ok(Err(error)) => {
                let message = "the branch succeeded, and its answer cannot be written as JSON";
                BranchError::Other(Error::new(ErrorKind::Internal, "branch.answer", message).with_source(error))
            }
            Err(error) => error,
        };
        match error.decided(method, branch) {
            BranchError::Failed(reason) => Self::new(409, failure(reason)),
            BranchError::Ongoing => Self::new(425, r#"{"dtm_result":"ONGOING"}"#.to_owned()),
            BranchError::Other(error) => Self::new(500, without_words(&object("error", &told(&error)))),
        }
    }

    pub(super) fn new(status: u16, body: String) -> Self {
        Self { status, body }
    }
}

/// What a stranger is told: of a fault, which is logged, not the context.
pub(super) fn told(error: &Error) -> String {
    match error.kind() {
        ErrorKind::Internal | ErrorKind::Unknown => {
            tracing::error!(error = %error.report(), kind = %error.kind(), "answering a fault");
            format!("{}: {}", error.operation(), error.message())
        }
        _ => error.to_string(),
    }
}

/// The whole body becomes the reason that DTM keeps.
fn failure(mut reason: String) -> String {
    loop {
        let message = without_words(&object("message", &reason));
        let body = format!(r#"{{"dtm_result":"FAILURE",{}"#, &message[1..]);
        let Some(excess) = body.chars().count().checked_sub(FAILURE_CHARS_MAX).filter(|excess| *excess > 0) else {
            return body;
        };
        // A character may be six in JSON: the last round takes one.
        for _ in 0..excess.div_ceil(6) {
            reason.pop();
        }
    }
}

fn object(name: &str, text: &str) -> String {
    serde_json::json!({ name: text }).to_string()
}

/// The same JSON without the words that DTM looks for. Letters stand in strings alone.
pub(super) fn without_words(json: &str) -> String {
    json.replace("FAILURE", r"FAIL\u0055RE").replace("ONGOING", r"ONG\u004fING")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::branch::{Mode, Op};

    fn branch(mode: Mode, op: Op) -> Branch {
        Branch::new(mode, "g", "01", op).unwrap()
    }

    #[test]
    fn an_error_is_a_failure_where_it_is_permanent_and_the_branch_may_fail() {
        for kind in ErrorKind::ALL {
            let decided =
                |branch: Option<&Branch>| BranchError::from(Error::new(kind, "pay", "not so")).decided("pay", branch);
            let may_fail =
                [(Mode::Saga, Op::Action), (Mode::Tcc, Op::Try), (Mode::Xa, Op::Action), (Mode::Msg, Op::Msg)];
            for (mode, op) in may_fail {
                let is_failed = matches!(decided(Some(&branch(mode, op))), BranchError::Failed(_));
                assert_eq!(is_failed, kind.is_permanent(), "{kind}");
            }
            let must_succeed = [
                (Mode::Saga, Op::Compensate),
                (Mode::Tcc, Op::Confirm),
                (Mode::Tcc, Op::Cancel),
                (Mode::Xa, Op::Commit),
                (Mode::Xa, Op::Rollback),
                (Mode::Msg, Op::Action),
            ];
            for (mode, op) in must_succeed {
                assert!(matches!(decided(Some(&branch(mode, op))), BranchError::Other(_)), "{kind}");
            }
            assert!(matches!(decided(None), BranchError::Other(_)), "{kind}");
        }
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let decided = BranchError::failed("\u{9322}".repeat(1_000)).decided("pay", None);
        assert!(matches!(decided, BranchError::Failed(reason) if reason == "\u{9322}".repeat(600)));
        let short = BranchError::failed("no money").decided("pay", None);
        assert!(matches!(short, BranchError::Failed(reason) if reason == "no money"));
    }

    /// As DTM reads it, by its captures: words first, `ONGOING` before `FAILURE`, then the status.
    fn read(answer: &HttpAnswer) -> &'static str {
        match answer.status {
            _ if answer.body.contains("ONGOING") => "ongoing",
            _ if answer.body.contains("FAILURE") => "failed",
            200 => "succeeded",
            409 => "failed",
            425 => "ongoing",
            _ => "unknown",
        }
    }

    #[test]
    fn an_answer_is_read_as_it_is_meant_whatever_its_texts_say() {
        let action = branch(Mode::Saga, Op::Action);
        for text in ["no FAILURE at all", "ONGOING", "\\FAILURE\"ONGOING", "plain"] {
            let of = |outcome| HttpAnswer::of("pay", Some(&action), outcome);
            for (outcome, status, meaning) in [
                (Ok(text), 200, "succeeded"),
                (Err(BranchError::failed(text)), 409, "failed"),
                (Err(BranchError::Ongoing), 425, "ongoing"),
                (Err(Error::new(ErrorKind::Aborted, "pay", text.to_owned()).into()), 500, "unknown"),
                (Err(Error::new(ErrorKind::Internal, "pay", text.to_owned()).into()), 500, "unknown"),
                (Err(Error::new(ErrorKind::InvalidArgument, "pay", text.to_owned()).into()), 409, "failed"),
            ] {
                let answer = of(outcome);
                assert_eq!((answer.status, read(&answer)), (status, meaning), "{answer:?}");
                let _: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            }
            let read_back: String = serde_json::from_str(&of(Ok(text)).body).unwrap();
            assert_eq!(read_back, text);
        }
        assert_eq!(HttpAnswer::of("pay", None, Ok(())).body, r#"{"dtm_result":"SUCCESS"}"#);
    }

    #[test]
    fn the_whole_body_of_a_failure_fits_into_dtms_column() {
        for reason in ["\u{9322}".repeat(2_000), "\u{1}".repeat(2_000), "ONGOING".repeat(300)] {
            let answer = HttpAnswer::of("pay", None, Err::<(), _>(BranchError::failed(reason.clone())));
            let count = answer.body.chars().count();
            assert!(count <= FAILURE_CHARS_MAX && count > FAILURE_CHARS_MAX - 20, "{count}");
            let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert!(reason.starts_with(body["message"].as_str().unwrap()));
        }
    }

    #[test]
    fn a_fault_keeps_its_context_at_home() {
        let fault = Error::new(ErrorKind::Internal, "pay", "not so").with_context("table", "accounts");
        let answer = HttpAnswer::of("pay", None, Err::<(), _>(fault.into()));
        assert_eq!(answer.body, r#"{"error":"pay: not so"}"#);
    }
}
