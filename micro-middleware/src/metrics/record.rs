//! What metrics record of a request.

use std::sync::Arc;

use metrics::Gauge;
use micro_core::{ErrorKind, flow::Flow};
use tokio::time::Instant;

use super::instruments::{Instruments, OperationInstruments};
use crate::{observe::Record, operation::OPERATION_BYTES_MAX};

/// One request that is being measured.
pub struct RequestRecord {
    instruments: Arc<Instruments>,
    operation: OperationName,
    flow: Flow,
    started: Instant,
    _in_flight: InFlight,
}

enum OperationName {
    Known(Arc<OperationInstruments>),
    New(Box<str>),
    /// Not kept: a peer's long name costs no memory.
    TooLong,
}

impl RequestRecord {
    pub(super) fn new(instruments: &Arc<Instruments>, flow: Flow, name: &str) -> Self {
        let operation = match instruments.known(name) {
            Some(known) => OperationName::Known(known),
            None if name.len() > OPERATION_BYTES_MAX => OperationName::TooLong,
            None => OperationName::New(name.into()),
        };
        let in_flight = InFlight::new(instruments.in_flight(flow).clone());
        Self { instruments: instruments.clone(), operation, flow, started: Instant::now(), _in_flight: in_flight }
    }
}

impl Record for RequestRecord {
    fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }

    fn write(self, outcome: Option<ErrorKind>) {
        let operation = match self.operation {
            OperationName::Known(known) => known,
            OperationName::New(name) => self.instruments.admit(self.flow, &name, outcome),
            OperationName::TooLong => self.instruments.other(self.flow),
        };
        operation.duration().record(self.started.elapsed());
        operation.total(outcome).increment(1);
    }
}

/// Counts one request as in flight for as long as it lives, whatever ends it.
struct InFlight(Gauge);

impl InFlight {
    fn new(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
