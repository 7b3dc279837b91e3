//! The handles of one service, bound once per operation and outcome, and bounded in number.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use metrics::{Counter, Gauge, Histogram};
use micro_core::{ErrorKind, flow::Flow};

use crate::Direction;

/// How many operations of one service have series of their own; later ones are `other`.
pub const OPERATION_COUNT_MAX: usize = 256;

const OTHER: &str = "other";
/// One counter for success and one per kind.
const OUTCOME_COUNT: usize = 1 + ErrorKind::ALL.len();

pub(super) struct Instruments {
    direction: Direction,
    in_flight: OnceLock<Gauge>,
    operations: RwLock<HashMap<Arc<str>, Arc<OperationInstruments>>>,
}

impl Instruments {
    pub(super) fn new(direction: Direction) -> Self {
        Self { direction, in_flight: OnceLock::new(), operations: RwLock::default() }
    }

    pub(super) fn in_flight(&self, flow: Flow) -> &Gauge {
        self.in_flight.get_or_init(|| {
            describe();
            metrics::gauge!(
                "micro_requests_in_flight",
                "flow" => flow.as_str(),
                "direction" => self.direction.as_str(),
            )
        })
    }

    /// The handles of an operation that was admitted before.
    pub(super) fn known(&self, operation: &str) -> Option<Arc<OperationInstruments>> {
        self.operations.read().unwrap_or_else(PoisonError::into_inner).get(operation).cloned()
    }

    /// The handles of an operation that was not known when its request began.
    ///
    /// A path that is not offered here is a peer's invention; giving it a series would let peers
    /// fill the table before the real operations are first called.
    pub(super) fn admit(&self, flow: Flow, operation: &str, outcome: Option<ErrorKind>) -> Arc<OperationInstruments> {
        let is_invented = self.direction == Direction::In && outcome == Some(ErrorKind::Unimplemented);
        if is_invented { self.other(flow) } else { self.named(flow, operation) }
    }

    /// The handles of whatever has none of its own.
    pub(super) fn other(&self, flow: Flow) -> Arc<OperationInstruments> {
        self.named(flow, OTHER)
    }

    fn named(&self, flow: Flow, operation: &str) -> Arc<OperationInstruments> {
        let mut operations = self.operations.write().unwrap_or_else(PoisonError::into_inner);
        let has_room = operations.contains_key(operation) || operations.len() < OPERATION_COUNT_MAX;
        let name: Arc<str> = if has_room { operation.into() } else { OTHER.into() };
        let bind = || Arc::new(OperationInstruments::new(flow, self.direction, name.clone()));
        operations.entry(name.clone()).or_insert_with(bind).clone()
    }
}

pub(super) struct OperationInstruments {
    flow: Flow,
    direction: Direction,
    name: Arc<str>,
    duration: Histogram,
    totals: [OnceLock<Counter>; OUTCOME_COUNT],
}

impl OperationInstruments {
    fn new(flow: Flow, direction: Direction, name: Arc<str>) -> Self {
        let duration = metrics::histogram!(
            "micro_request_duration_seconds",
            "flow" => flow.as_str(),
            "direction" => direction.as_str(),
            "operation" => name.clone(),
        );
        Self { flow, direction, name, duration, totals: [const { OnceLock::new() }; OUTCOME_COUNT] }
    }

    pub(super) fn duration(&self) -> &Histogram {
        &self.duration
    }

    pub(super) fn total(&self, outcome: Option<ErrorKind>) -> &Counter {
        let index = outcome.map_or(0, |kind| usize::from(kind.code()));
        self.totals[index].get_or_init(|| {
            metrics::counter!(
                "micro_request_total",
                "flow" => self.flow.as_str(),
                "direction" => self.direction.as_str(),
                "operation" => self.name.clone(),
                "outcome" => outcome.map_or("ok", ErrorKind::as_str),
            )
        })
    }
}

fn describe() {
    metrics::describe_counter!("micro_request_total", "requests by outcome");
    metrics::describe_histogram!(
        "micro_request_duration_seconds",
        metrics::Unit::Seconds,
        "time from the request to the end of its answer"
    );
    metrics::describe_gauge!("micro_requests_in_flight", "requests that have begun and not ended");
}
