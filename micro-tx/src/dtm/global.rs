//! A global transaction as DTM is told of it, in the forms of all APIs.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Result,
    branch::Mode,
    saga::{Saga, Step},
};
use serde::Serialize;

use super::messages::{DtmRequest, DtmTransOptions};

/// A global transaction as DTM is told of it.
///
/// [`DtmCoordinator`](super::DtmCoordinator) and [`TwoPhaseMessage`](super::TwoPhaseMessage) make them;
/// it is here for what neither does.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GlobalTransaction {
    /// The global id, 1 to 128 bytes without line breaks and `;`.
    pub gid: String,
    /// How it is carried out.
    pub mode: Mode,
    /// How patient DTM is.
    pub options: TransactionOptions,
    /// JSON that the mode defines: order and concurrency of a saga, delay of a message.
    pub custom_data: String,
    /// The calls, with one payload each: limits as of [`Step`].
    pub steps: Vec<Step>,
    /// Where DTM asks whether a message's local transaction committed.
    pub query_prepared: String,
    /// Why it is aborted.
    pub rollback_reason: String,
    /// A workflow's outcome, by DTM's names.
    pub extra: BTreeMap<String, String>,
}

/// How patient DTM is with a transaction. DTM knows whole seconds: what is less is rounded up, and 0 is
/// its default. On SQL stores all of them together have 1024 characters, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionOptions {
    /// Whether the answer waits for the outcome; default no. DTM waits for 5 to 8 s, and
    /// [`wait_timeout`](super::DtmConfig::wait_timeout) limits the request. It means nothing to a workflow,
    /// whose caller does the work itself.
    pub is_waited_for: bool,
    /// Seconds from its beginning; no limit. A saga is rolled back then, default never; TCC and XA that are
    /// not submitted by then are cancelled, default 35 s; a message that is only prepared is asked about,
    /// default 35 s, up to 13 s later than that. A workflow has none.
    pub timeout_to_fail: Option<Duration>,
    /// Seconds, the first pause before a call is made again; default 10 s, no limit. It doubles after each
    /// answer that is none, and stays after "ongoing". A workflow is run again after this pause each time.
    pub retry_interval: Option<Duration>,
    /// How many calls of actions of a saga are made again at once before it is rolled back; default no
    /// limit. Of nothing else.
    pub retry_count_max: Option<u32>,
    /// How long one call of a branch may take; default 3 s, no limit. Seconds where DTM calls; the calls that
    /// this process makes (`try`, actions of XA and of workflows) end at the millisecond.
    pub request_timeout: Option<Duration>,
    /// Sent with each call of a branch, DTM's and our own; default none. At most some 900 characters
    /// together on SQL stores.
    pub headers: BTreeMap<String, String>,
    /// Whether all branches of a message are called at the same time, default no; over HTTP only. Of a saga
    /// the custom data says it.
    pub is_concurrent: bool,
}

impl GlobalTransaction {
    /// A transaction without steps.
    pub fn new(mode: Mode, gid: impl Into<String>) -> Self {
        Self {
            gid: gid.into(),
            mode,
            options: TransactionOptions::default(),
            custom_data: String::new(),
            steps: Vec::new(),
            query_prepared: String::new(),
            rollback_reason: String::new(),
            extra: BTreeMap::new(),
        }
    }

    /// As the gRPC API takes it.
    pub(crate) fn to_request(&self) -> Result<DtmRequest> {
        if self.options.is_concurrent && self.mode == Mode::Msg {
            let message = "a message's branches can be called at the same time over DTM's HTTP and JSON-RPC APIs only";
            return Err(Error::new(ErrorKind::InvalidArgument, "dtm.submit", message).with_context("gid", &self.gid));
        }
        let options = &self.options;
        Ok(DtmRequest {
            gid: self.gid.clone(),
            trans_type: self.mode.as_str().to_owned(),
            trans_options: Some(DtmTransOptions {
                wait_result: options.is_waited_for,
                timeout_to_fail: seconds(options.timeout_to_fail),
                retry_interval: seconds(options.retry_interval),
                branch_headers: options.headers.clone(),
                request_timeout: seconds(options.request_timeout),
                retry_limit: options.retry_count_max.unwrap_or_default().into(),
            }),
            customed_data: self.custom_data.clone(),
            bin_payloads: self.steps.iter().map(|step| step.payload.clone()).collect(),
            query_prepared: self.query_prepared.clone(),
            steps: match &self.json_steps()[..] {
                // As DTM's Go client says it.
                [] => "null".to_owned(),
                steps => serde_json::to_string(steps).expect("texts are JSON"),
            },
            req_extra: self.extra.clone(),
            rollback_reason: self.rollback_reason.clone(),
        })
    }

    /// As the HTTP API takes it, and with its name for a `protocol` JSON-RPC.
    pub(crate) fn to_json(&self, protocol: &'static str) -> Result<JsonTransaction<'_>> {
        let refused = |index: usize, message: &'static str| {
            Error::new(ErrorKind::InvalidArgument, "dtm.submit", message)
                .with_context("gid", &self.gid)
                .with_context("step", index)
        };
        let mut payloads = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().enumerate() {
            let is_callable = |url: &str| {
                url.is_empty() || ["http://", "https://", "topic://"].iter().any(|scheme| url.starts_with(scheme))
            };
            if !is_callable(&step.action) || !is_callable(&step.compensation) {
                let message =
                    "over HTTP and JSON-RPC DTM calls http:// and https:// alone: name its gRPC API, or another URL";
                return Err(refused(index, message));
            }
            payloads.push(text(&step.payload).ok_or_else(|| {
                refused(index, "over HTTP and JSON-RPC a payload is text: name DTM's gRPC API, or send JSON")
            })?);
        }
        Ok(JsonTransaction {
            gid: &self.gid,
            trans_type: self.mode.as_str(),
            custom_data: &self.custom_data,
            options: self.json_options(),
            steps: self.json_steps(),
            payloads,
            query_prepared: &self.query_prepared,
            protocol,
            rollback_reason: &self.rollback_reason,
            req_extra: &self.extra,
        })
    }

    /// As DTM keeps them.
    pub(crate) fn json_options(&self) -> JsonOptions<'_> {
        let options = &self.options;
        JsonOptions {
            wait_result: options.is_waited_for,
            timeout_to_fail: seconds(options.timeout_to_fail),
            request_timeout: seconds(options.request_timeout),
            retry_interval: seconds(options.retry_interval),
            branch_headers: &options.headers,
            concurrent: options.is_concurrent,
            retry_limit: options.retry_count_max.unwrap_or_default(),
        }
    }

    fn json_steps(&self) -> Vec<JsonStep<'_>> {
        let is_undone = self.mode == Mode::Saga;
        let steps = self.steps.iter();
        steps
            .map(|step| JsonStep { action: &step.action, compensate: is_undone.then_some(&*step.compensation) })
            .collect()
    }
}

/// A saga, with its order where steps are concurrent.
impl TryFrom<Saga> for GlobalTransaction {
    type Error = Error;

    /// # Errors
    ///
    /// `InvalidArgument` for an order of steps that are not there, or that wait for each other.
    fn try_from(saga: Saga) -> Result<Self> {
        let Saga { gid, steps, options, .. } = saga;
        let custom_data =
            if options.is_concurrent { order(&gid, steps.len(), &options.orders)? } else { String::new() };
        Ok(Self {
            options: TransactionOptions {
                is_waited_for: options.is_waited_for,
                timeout_to_fail: options.timeout_to_fail,
                retry_interval: options.retry_interval,
                retry_count_max: options.retry_count_max,
                request_timeout: options.request_timeout,
                headers: options.headers,
                is_concurrent: options.is_concurrent,
            },
            custom_data,
            steps,
            ..Self::new(Mode::Saga, gid)
        })
    }
}

#[derive(Serialize)]
struct Order<'a> {
    concurrent: bool,
    orders: &'a BTreeMap<usize, Vec<usize>>,
}

fn order(gid: &str, step_count: usize, orders: &BTreeMap<usize, Vec<usize>>) -> Result<String> {
    let refused = |message: &'static str| {
        Error::new(ErrorKind::InvalidArgument, "saga.submit", message)
            .with_context("gid", gid)
            .with_context("steps", step_count)
    };
    let named = orders.iter().flat_map(|(step, before)| std::iter::once(step).chain(before));
    if named.into_iter().any(|step| *step >= step_count) {
        return Err(refused("the order names a step that is not there: steps are counted from 0"));
    }
    // What can be done is taken away until nothing is left.
    let mut left: Vec<usize> = (0..step_count).collect();
    loop {
        let waits =
            |step: &usize| orders.get(step).is_some_and(|before| before.iter().any(|other| left.contains(other)));
        let waiting: Vec<usize> = left.iter().copied().filter(waits).collect();
        if waiting.is_empty() {
            return Ok(serde_json::to_string(&Order { concurrent: true, orders }).expect("numbers are JSON"));
        }
        if waiting.len() == left.len() {
            return Err(refused("steps wait for each other").with_context("waiting", format_args!("{waiting:?}")));
        }
        left = waiting;
    }
}

/// A transaction as the HTTP API takes it, with its members in the order of DTM's Go client.
#[derive(Serialize)]
pub(crate) struct JsonTransaction<'a> {
    gid: &'a str,
    trans_type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    custom_data: &'a str,
    #[serde(flatten)]
    options: JsonOptions<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<JsonStep<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    payloads: Vec<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    query_prepared: &'a str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    rollback_reason: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    req_extra: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
pub(crate) struct JsonOptions<'a> {
    #[serde(skip_serializing_if = "is_default")]
    wait_result: bool,
    #[serde(skip_serializing_if = "is_default")]
    timeout_to_fail: i64,
    #[serde(skip_serializing_if = "is_default")]
    request_timeout: i64,
    #[serde(skip_serializing_if = "is_default")]
    retry_interval: i64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    branch_headers: &'a BTreeMap<String, String>,
    concurrent: bool,
    #[serde(skip_serializing_if = "is_default")]
    retry_limit: u32,
}

#[derive(Serialize)]
struct JsonStep<'a> {
    action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    compensate: Option<&'a str>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn seconds(duration: Option<Duration>) -> i64 {
    i64::try_from(whole_seconds(duration.unwrap_or_default())).unwrap_or(i64::MAX)
}

/// Rounded up.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

fn text(payload: &Bytes) -> Option<&str> {
    std::str::from_utf8(payload).ok()
}

#[cfg(test)]
mod tests {
    use micro_core::saga::SagaOptions;

    use super::*;

    fn concurrent(step_count: usize, orders: &[(usize, &[usize])]) -> Result<GlobalTransaction> {
        let mut options = SagaOptions::default();
        options.is_concurrent = true;
        options.orders = orders.iter().map(|(step, before)| (*step, before.to_vec())).collect();
        let saga = (0..step_count).fold(Saga::with_gid("g"), |saga, _| saga.step(Step::new("h:1/a.B/C")));
        GlobalTransaction::try_from(saga.options(options))
    }

    #[test]
    fn the_order_of_concurrent_steps_is_the_custom_data() {
        let transaction = concurrent(3, &[(2, &[0, 1])]).unwrap();
        assert_eq!(transaction.custom_data, r#"{"concurrent":true,"orders":{"2":[0,1]}}"#);
        assert_eq!(concurrent(2, &[]).unwrap().custom_data, r#"{"concurrent":true,"orders":{}}"#);
    }

    #[test]
    fn an_order_that_cannot_be_is_refused() {
        for (orders, told) in [
            (&[(2, &[0][..])][..], "counted from 0"),
            (&[(0, &[7])], "counted from 0"),
            (&[(0, &[1]), (1, &[0])], "waiting=[0, 1]"),
            (&[(1, &[1])], "waiting=[1]"),
        ] {
            let error = concurrent(2, orders).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn less_than_a_second_is_a_second() {
        for (duration, expected) in [(0, 0), (1, 1), (1000, 1), (1001, 2), (90_000, 90)] {
            assert_eq!(seconds(Some(Duration::from_millis(duration))), expected);
        }
        assert_eq!(seconds(None), 0);
        assert_eq!(seconds(Some(Duration::MAX)), i64::MAX);
    }

    #[test]
    fn what_http_cannot_carry_is_refused_with_its_step() {
        let saga =
            |step: Step| GlobalTransaction::try_from(Saga::with_gid("g").step(Step::new("http://h/a")).step(step));
        for (step, told) in [
            (Step::new("h:1/a.B/C"), "http:// and https:// alone"),
            (Step::new("http://h/a").compensation("h:1/a.B/C"), "http:// and https:// alone"),
            (Step::new("http://h/a").payload(&b"\xff"[..]), "a payload is text"),
        ] {
            let transaction = saga(step).unwrap();
            let Err(error) = transaction.to_json("") else { panic!("{told}") };
            assert!(error.to_string().contains(told) && error.to_string().contains("step=1"), "{error}");
            transaction.to_request().unwrap();
        }
    }

    #[test]
    fn a_message_with_concurrent_branches_is_refused_over_grpc() {
        let mut message = GlobalTransaction::new(Mode::Msg, "g");
        message.options.is_concurrent = true;
        assert!(message.to_request().unwrap_err().to_string().contains("HTTP and JSON-RPC APIs only"));
        message.to_json("").unwrap();
    }
}
