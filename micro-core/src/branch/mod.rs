//! A branch of a global transaction: which call of which transaction a participant is asked for.

mod answer;
mod json_rpc;
mod shown;

pub use answer::{BranchError, FAILURE_CHARS_MAX, HttpAnswer};
pub use json_rpc::{JSON_RPC_FAILURE, JSON_RPC_ONGOING, JsonRpcCall};
pub use shown::{shown_url, without_accounts};

use std::{fmt, str::FromStr};

use crate::{Error, ErrorKind, Metadata, Result};

/// The longest global id that a coordinator's store keeps, in bytes. DTM's SQL stores and every
/// client's barrier table have `varchar(128)`.
pub const GID_BYTES_MAX: usize = 128;

/// How a global transaction is carried out. The names are DTM's `trans_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Actions, and compensations in reverse where one fails.
    Saga,
    /// Try, then confirm or cancel.
    Tcc,
    /// Two-phase message: a local transaction, then calls that must come about.
    Msg,
    /// Two-phase commit of the databases themselves.
    Xa,
    /// A function that is run again from its recorded steps.
    Workflow,
}

impl Mode {
    /// As it stands on the wire and in the barrier's table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Saga => "saga",
            Self::Tcc => "tcc",
            Self::Msg => "msg",
            Self::Xa => "xa",
            Self::Workflow => "workflow",
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Saga, Self::Tcc, Self::Msg, Self::Xa, Self::Workflow]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| {
                let message = "not a mode of a global transaction: expected saga, tcc, msg, xa or workflow";
                Error::new(ErrorKind::InvalidArgument, "branch.read", message).with_context("trans_type", text)
            })
    }
}

/// What a participant is asked to do. The names are DTM's `op`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// A saga's or workflow's step, or the work of an XA branch.
    Action,
    /// Undoes a saga's action, whether or not it took effect.
    Compensate,
    /// Reserves (TCC).
    Try,
    /// Makes a reservation final (TCC).
    Confirm,
    /// Gives a reservation back (TCC), whether or not there is one.
    Cancel,
    /// Commits (XA, workflow).
    Commit,
    /// Rolls back (XA, workflow).
    Rollback,
    /// The local transaction of a two-phase message.
    Msg,
    /// Another name: DTM calls a workflow by its own.
    Other(String),
}

impl Op {
    /// As it stands on the wire and in the barrier's table.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Action => "action",
            Self::Compensate => "compensate",
            Self::Try => "try",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Msg => "msg",
            Self::Other(name) => name,
        }
    }

    /// What this undoes, where it undoes something.
    pub fn origin(&self) -> Option<Self> {
        match self {
            Self::Compensate | Self::Rollback => Some(Self::Action),
            Self::Cancel => Some(Self::Try),
            _ => None,
        }
    }

    /// Whether a coordinator takes "failed" for an answer, in most modes: [`Branch::may_fail`] knows all.
    pub fn may_fail(&self) -> bool {
        matches!(self, Self::Action | Self::Try | Self::Msg)
    }
}

impl From<&str> for Op {
    fn from(text: &str) -> Self {
        use Op::{Action, Cancel, Commit, Compensate, Confirm, Msg, Rollback, Try};
        let known = [Action, Compensate, Try, Confirm, Cancel, Commit, Rollback, Msg];
        known.into_iter().find(|op| op.as_str() == text).unwrap_or_else(|| Self::Other(text.to_owned()))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which call of which global transaction this is.
///
/// Every coordinator says it in the form of DTM 1.19: metadata `dtm-gid`, `dtm-trans_type`,
/// `dtm-branch_id`, `dtm-op` of a gRPC call, query parameters `gid`, `trans_type`, `branch_id`, `op` of
/// an HTTP call, parameters of these names of a call in JSON-RPC ([`JsonRpcCall`]).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Branch {
    /// How the transaction is carried out.
    pub mode: Mode,
    /// The global id: 1 to [`GID_BYTES_MAX`] bytes.
    pub gid: String,
    /// Two digits a level, from `01`; `00` asks for the transaction itself.
    pub id: String,
    /// What is asked for.
    pub op: Op,
    /// The coordinator's address, where a client calls and not the coordinator itself.
    pub coordinator: Option<String>,
    /// Where an XA branch is called for its second phase.
    pub phase2_url: Option<String>,
}

impl Branch {
    /// A branch, called by the coordinator.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an empty id or operation, and for a global id that is empty or longer
    /// than [`GID_BYTES_MAX`] bytes: MySQL would cut it silently in the barrier's table.
    pub fn new(mode: Mode, gid: impl Into<String>, id: impl Into<String>, op: Op) -> Result<Self> {
        let branch = Self { mode, gid: gid.into(), id: id.into(), op, coordinator: None, phase2_url: None };
        checked_gid(&branch.gid)?;
        for (name, value) in [("branch_id", branch.id.as_str()), ("op", branch.op.as_str())] {
            if value.is_empty() {
                let message = "a branch needs all of gid, trans_type, branch_id and op";
                return Err(Error::new(ErrorKind::InvalidArgument, "branch.read", message)
                    .with_context("gid", &branch.gid)
                    .with_context("empty", name));
            }
        }
        Ok(branch)
    }

    /// What a gRPC call's metadata says; `None` where it is no branch of anything.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` where only a part is there, or one of the parts cannot be.
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<Self>> {
        Self::read(|name| metadata.get(&format!("dtm-{name}")).map(str::to_owned))
    }

    /// What parts by DTM's names (`gid`, `trans_type`, `branch_id`, `op`, `dtm`, `phase2_url`) say: the
    /// query parameters of an HTTP call.
    ///
    /// # Errors
    ///
    /// Those of [`from_metadata`](Self::from_metadata).
    pub fn read(part: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        const PARTS: [&str; 4] = ["gid", "trans_type", "branch_id", "op"];
        let found = PARTS.map(&part);
        if found.iter().all(Option::is_none) {
            return Ok(None);
        }
        let [Some(gid), Some(mode), Some(id), Some(op)] = found else {
            let missing: Vec<_> = PARTS.iter().zip(PARTS.map(&part)).filter(|(_, value)| value.is_none()).collect();
            let missing: Vec<&str> = missing.into_iter().map(|(name, _)| *name).collect();
            let message = "a branch needs all of gid, trans_type, branch_id and op: does a proxy drop names with `_`?";
            return Err(Error::new(ErrorKind::InvalidArgument, "branch.read", message)
                .with_context("missing", missing.join(",")));
        };
        let mut branch = Self::new(mode.parse()?, gid, id, Op::from(op.as_str()))?;
        branch.coordinator = part("dtm").filter(|address| !address.is_empty());
        branch.phase2_url = part("phase2_url").filter(|url| !url.is_empty());
        Ok(Some(branch))
    }

    /// Whether the coordinator takes "failed" for an answer. Of every other branch it asks again for ever:
    /// of what undoes, confirms or commits, and of the calls of a two-phase message.
    ///
    /// Source: DTM 1.19, which takes a failure of those for an unknown error.
    pub fn may_fail(&self) -> bool {
        match (self.mode, &self.op) {
            (Mode::Msg, Op::Action) => false,
            // A workflow is called by its own name, and its failure is its outcome.
            (Mode::Workflow, Op::Other(_)) => true,
            (_, op) => op.may_fail(),
        }
    }

    /// As metadata of a gRPC call. `dtm-dtm` is there also when it is empty, as DTM sends it.
    pub fn write_metadata(&self, metadata: &mut Metadata) {
        metadata.insert("dtm-gid", &self.gid);
        metadata.insert("dtm-trans_type", self.mode.as_str());
        metadata.insert("dtm-branch_id", &self.id);
        metadata.insert("dtm-op", self.op.as_str());
        metadata.insert("dtm-dtm", self.coordinator.as_deref().unwrap_or_default());
        if let Some(url) = &self.phase2_url {
            metadata.insert("dtm-phase2_url", url);
        }
    }
}

/// What a branch answered to its coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BranchAnswer {
    /// Done, now or by an earlier call.
    Succeeded,
    /// Refused for good, for this reason: the transaction is rolled back.
    Failed(String),
    /// Not done yet: ask again after the same pause.
    Ongoing,
}

pub(crate) fn checked_gid(gid: &str) -> Result<()> {
    let message = match gid.len() {
        1..=GID_BYTES_MAX => return Ok(()),
        0 => "a global transaction needs an id",
        _ => "the global id is too long for a coordinator's store",
    };
    Err(Error::new(ErrorKind::InvalidArgument, "branch.read", message)
        .with_context("gid_bytes", gid.len())
        .with_context("gid_bytes_max", GID_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(parts: &[(&str, &str)]) -> Metadata {
        let mut metadata = Metadata::new();
        for (name, value) in parts {
            metadata.insert(name, *value);
        }
        metadata
    }

    #[test]
    fn what_was_written_is_read() {
        let mut branch = Branch::new(Mode::Xa, "g-1", "01", Op::Action).unwrap();
        branch.coordinator = Some("127.0.0.1:36790".to_owned());
        branch.phase2_url = Some("127.0.0.1:9000/busi.Busi/Pay".to_owned());
        let mut written = Metadata::new();
        branch.write_metadata(&mut written);
        assert_eq!(Branch::from_metadata(&written).unwrap(), Some(branch));
    }

    #[test]
    fn no_part_is_no_branch_and_a_missing_part_is_named() {
        assert_eq!(Branch::from_metadata(&metadata(&[("x-region", "cn")])).unwrap(), None);
        let error = Branch::from_metadata(&metadata(&[("dtm-gid", "g"), ("dtm-op", "action")])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("missing=trans_type,branch_id"), "{error}");
    }

    #[test]
    fn parts_that_cannot_be_are_refused() {
        let parts = |gid, mode, id, op| {
            metadata(&[("dtm-gid", gid), ("dtm-trans_type", mode), ("dtm-branch_id", id), ("dtm-op", op)])
        };
        let long = "g".repeat(GID_BYTES_MAX + 1);
        for (given, told) in [
            (parts("", "saga", "01", "action"), "needs an id"),
            (parts(&long, "saga", "01", "action"), "gid_bytes_max=128"),
            (parts("g", "cargo", "01", "action"), "trans_type=cargo"),
            (parts("g", "saga", "", "action"), "empty=branch_id"),
            (parts("g", "saga", "01", ""), "empty=op"),
        ] {
            let error = Branch::from_metadata(&given).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
        assert!(Branch::from_metadata(&parts("g", "workflow", "00", "my-workflow")).unwrap().is_some());
    }

    #[test]
    fn an_operation_knows_what_it_undoes() {
        assert_eq!(Op::from("compensate").origin(), Some(Op::Action));
        assert_eq!(Op::from("rollback").origin(), Some(Op::Action));
        assert_eq!(Op::from("cancel").origin(), Some(Op::Try));
        for op in ["action", "try", "confirm", "commit", "msg", "mine"] {
            assert_eq!(Op::from(op).origin(), None, "{op}");
            assert_eq!(Op::from(op).as_str(), op);
        }
    }
}
