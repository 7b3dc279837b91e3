//! What DTM keeps of transactions, as its HTTP API tells it.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use micro_core::{
    branch::{Mode, Op, without_accounts},
    saga::Outcome,
};
use serde::{Deserialize, Deserializer};

/// The state of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransactionStatus {
    /// Begun, and nothing decided yet.
    #[default]
    Prepared,
    /// Its branches are called.
    Submitted,
    /// Every branch took effect.
    Succeeded,
    /// What took effect is undone.
    Aborting,
    /// Nothing is left of it, or it was stopped by force.
    Failed,
    /// A word that DTM 1.19 does not have.
    Other(String),
}

impl TransactionStatus {
    /// DTM's word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Prepared => "prepared",
            Self::Submitted => "submitted",
            Self::Succeeded => "succeed",
            Self::Aborting => "aborting",
            Self::Failed => "failed",
            Self::Other(word) => word,
        }
    }
}

impl From<&str> for TransactionStatus {
    fn from(word: &str) -> Self {
        let known = [Self::Prepared, Self::Submitted, Self::Succeeded, Self::Aborting, Self::Failed];
        known.into_iter().find(|status| status.as_str() == word).unwrap_or_else(|| Self::Other(word.to_owned()))
    }
}

impl fmt::Display for TransactionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for TransactionStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|word| Self::from(word.as_str()))
    }
}

fn without_account<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|reason| without_accounts(&reason).into_owned())
}

/// A transaction. Times are RFC 3339 with nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TransactionState {
    /// The global id.
    pub gid: String,
    /// DTM's word for how it is carried out.
    pub trans_type: String,
    /// Its state.
    pub status: TransactionStatus,
    /// Why it was rolled back; empty where it was not, or nobody said. DTM names the branch's URL in it, which
    /// is told without its account.
    #[serde(deserialize_with = "without_account")]
    pub rollback_reason: String,
    /// What a workflow came to, in base64.
    pub result: String,
    /// Whom DTM asks about a message.
    pub query_prepared: String,
    /// The options, as JSON.
    pub options: String,
    /// What the mode defines, as JSON.
    pub custom_data: String,
    /// The pause before the next call, in seconds.
    pub next_cron_interval: i64,
    /// When it is looked at again.
    pub next_cron_time: Option<String>,
    /// When it began.
    pub create_time: Option<String>,
    /// When it changed last.
    pub update_time: Option<String>,
    /// When it came to success.
    pub finish_time: Option<String>,
    /// When it was rolled back.
    pub rollback_time: Option<String>,
}

/// A call of a branch, done or to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BranchState {
    /// The branch: two digits a level.
    pub branch_id: String,
    /// DTM's word for what it is asked.
    pub op: String,
    /// `prepared`, `succeed` or `failed`.
    pub status: String,
    /// Where it is called.
    pub url: String,
    /// The body, in base64.
    pub bin_data: String,
    /// When it came to its end.
    pub finish_time: Option<String>,
}

/// A transaction and its branches, in the order in which DTM keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionDetails {
    /// The transaction.
    pub transaction: TransactionState,
    /// Its branches.
    pub branches: Vec<BranchState>,
}

impl TransactionDetails {
    /// What became of it. The reason of a saga that was [stopped by force](super::DtmClient::force_stop)
    /// before it was refused says so: DTM knows no other one.
    pub fn outcome(&self) -> Outcome {
        let TransactionState { status, trans_type, rollback_reason, .. } = &self.transaction;
        match status {
            TransactionStatus::Succeeded => Outcome::Succeeded,
            TransactionStatus::Failed if trans_type == Mode::Saga.as_str() && rollback_reason.is_empty() => {
                Outcome::RolledBack { reason: "stopped by force: what had taken effect is not undone".to_owned() }
            }
            TransactionStatus::Failed => Outcome::RolledBack { reason: without_failure(rollback_reason).to_owned() },
            _ => Outcome::StillRunning,
        }
    }

    /// The branches of a saga that failed whose action took effect, and of whose compensation DTM does not
    /// know that it did. Of a saga that was stopped by force they stay; otherwise DTM on MySQL and PostgreSQL
    /// notes them within a fraction of a second, if it lives so long.
    pub fn not_undone(&self) -> impl Iterator<Item = &str> {
        let is_failed_saga =
            self.transaction.status == TransactionStatus::Failed && self.transaction.trans_type == Mode::Saga.as_str();
        let is_done = |branch: &BranchState| branch.status == TransactionStatus::Succeeded.as_str();
        let took_effect = move |id: &str| {
            let action = |branch: &&BranchState| branch.branch_id == id && branch.op == Op::Action.as_str();
            self.branches.iter().find(action).is_some_and(is_done)
        };
        let branches = self.branches.iter().filter(move |_| is_failed_saga);
        let undoings = branches.filter(|branch| branch.op == Op::Compensate.as_str() && !branch.url.is_empty());
        undoings
            .filter(move |branch| !is_done(branch) && took_effect(&branch.branch_id))
            .map(|branch| branch.branch_id.as_str())
    }
}

/// A reason without the word that DTM puts behind it.
pub(crate) fn without_failure(reason: &str) -> &str {
    reason.strip_suffix("FAILURE").map_or(reason, str::trim_end)
}

#[derive(Deserialize)]
pub(crate) struct Queried {
    pub(crate) transaction: Option<TransactionState>,
    #[serde(default)]
    pub(crate) branches: Vec<BranchState>,
}

/// Which transactions are listed; the default is all of them, a hundred at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionFilter {
    /// How many at a time; default 100.
    pub limit: u32,
    /// Where the list goes on: what [`TransactionPage::next_position`] said.
    pub position: Option<String>,
    /// Of this id.
    pub gid: Option<String>,
    /// In this state.
    pub status: Option<TransactionStatus>,
    /// Carried out in this way.
    pub mode: Option<Mode>,
    /// Begun not before.
    pub since: Option<SystemTime>,
    /// Begun not after.
    pub until: Option<SystemTime>,
}

impl Default for TransactionFilter {
    fn default() -> Self {
        Self { limit: 100, position: None, gid: None, status: None, mode: None, since: None, until: None }
    }
}

impl TransactionFilter {
    pub(crate) fn query(&self) -> Vec<(&'static str, String)> {
        let millis = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string();
        let optional = [
            ("position", self.position.clone()),
            ("gid", self.gid.clone()),
            ("status", self.status.as_ref().map(ToString::to_string)),
            ("transType", self.mode.map(|mode| mode.as_str().to_owned())),
            ("createTimeStart", self.since.map(millis)),
            ("createTimeEnd", self.until.map(millis)),
        ];
        let given = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
        std::iter::once(("limit", self.limit.to_string())).chain(given).collect()
    }
}

/// A part of a list of transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionPage {
    /// The transactions.
    pub transactions: Vec<TransactionState>,
    /// Where the list goes on; `None` at its end.
    pub next_position: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Listed {
    #[serde(default)]
    pub(crate) transactions: Option<Vec<TransactionState>>,
    #[serde(default)]
    pub(crate) next_position: String,
}

/// How many transactions were made due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ResetCount {
    /// So many were.
    #[serde(rename = "succeed_count")]
    pub count: u64,
    /// Whether there are more of them.
    pub has_remaining: bool,
}

#[derive(Deserialize)]
pub(crate) struct Version {
    pub(crate) version: String,
}

/// A topic of two-phase messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topic {
    /// Its name: a message goes to `topic://NAME`.
    pub name: String,
    /// Who is called.
    pub subscribers: Vec<Subscriber>,
    /// Grows with each change.
    pub version: u64,
}

/// A subscriber of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Subscriber {
    /// Where it is called.
    pub url: String,
    /// What was noted with it.
    #[serde(default)]
    pub remark: String,
}

#[derive(Deserialize)]
pub(crate) struct KeyValues {
    #[serde(default)]
    pub(crate) kv: Option<Vec<KeyValue>>,
    #[serde(default)]
    pub(crate) next_position: String,
}

#[derive(Deserialize)]
pub(crate) struct KeyValue {
    pub(crate) k: String,
    pub(crate) v: String,
    pub(crate) version: u64,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_an_end_is_an_outcome() {
        let outcome = |status: &str| {
            let reason = "url:http://me:secret@h:1/a return failed: no stock FAILURE";
            let told = serde_json::json!({ "gid": "g", "status": status, "rollback_reason": reason });
            let transaction: TransactionState = serde_json::from_value(told).unwrap();
            TransactionDetails { transaction, branches: Vec::new() }.outcome()
        };
        assert_eq!(outcome("succeed"), Outcome::Succeeded);
        let reason = "url:http://***@h:1/a return failed: no stock".to_owned();
        assert_eq!(outcome("failed"), Outcome::RolledBack { reason });
        for status in ["prepared", "submitted", "aborting", "paused"] {
            assert_eq!(outcome(status), Outcome::StillRunning, "{status}");
        }
    }

    #[test]
    fn what_was_stopped_by_force_is_told_from_what_was_undone() {
        let details = |reason: &str, states: [&str; 4]| {
            let branch = |(number, status): (usize, &&str)| {
                let op = if number % 2 == 0 { "compensate" } else { "action" };
                let id = format!("0{}", number / 2 + 1);
                serde_json::json!({ "branch_id": id, "op": op, "status": status, "url": "h:1/a.B/C" })
            };
            let branches: Vec<_> = states.iter().enumerate().map(branch).collect();
            let transaction =
                serde_json::json!({ "trans_type": "saga", "status": "failed", "rollback_reason": reason });
            TransactionDetails {
                transaction: serde_json::from_value(transaction).unwrap(),
                branches: serde_json::from_value(branches.into()).unwrap(),
            }
        };
        for (states, left) in [
            (["succeed", "succeed", "succeed", "failed"], &[][..]),
            (["prepared", "succeed", "prepared", "failed"], &["01"]),
            (["prepared", "succeed", "prepared", "succeed"], &["01", "02"]),
            (["prepared", "prepared", "prepared", "prepared"], &[]),
        ] {
            assert_eq!(details("no FAILURE", states).not_undone().collect::<Vec<_>>(), left, "{states:?}");
        }
        let stopped = details("", ["prepared", "succeed", "prepared", "prepared"]).outcome();
        assert!(matches!(stopped, Outcome::RolledBack { reason } if reason.starts_with("stopped by force")));
        let mut message = details("", ["prepared", "succeed", "prepared", "prepared"]);
        message.transaction.trans_type = "msg".to_owned();
        assert_eq!(message.outcome(), Outcome::RolledBack { reason: String::new() });
        assert_eq!(message.not_undone().count(), 0, "a message undoes nothing");
    }

    #[test]
    fn a_filter_is_a_query_of_what_it_names() {
        assert_eq!(TransactionFilter::default().query(), [("limit", "100".to_owned())]);
        let filter = TransactionFilter {
            limit: 2,
            position: Some("p".to_owned()),
            gid: Some("g".to_owned()),
            status: Some(TransactionStatus::Succeeded),
            mode: Some(Mode::Saga),
            since: Some(UNIX_EPOCH + Duration::from_millis(1500)),
            until: Some(UNIX_EPOCH),
        };
        let expected = [
            ("limit", "2"),
            ("position", "p"),
            ("gid", "g"),
            ("status", "succeed"),
            ("transType", "saga"),
            ("createTimeStart", "1500"),
            ("createTimeEnd", "0"),
        ];
        assert_eq!(filter.query(), expected.map(|(name, value)| (name, value.to_owned())));
    }
}
