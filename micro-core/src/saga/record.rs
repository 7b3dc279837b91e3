//! How a saga is written down: the bytes of a log's row.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use prost::Message as _;

use super::{Saga, SagaOptions, Step};
use crate::{Error, ErrorKind, Result};

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(message, repeated, tag = "1")]
    steps: Vec<StepRecord>,
    #[prost(bool, tag = "2")]
    is_waited_for: bool,
    /// Durations in nanoseconds; none: the coordinator's.
    #[prost(uint64, optional, tag = "3")]
    timeout_to_fail: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    retry_interval: Option<u64>,
    #[prost(uint32, optional, tag = "5")]
    retry_count_max: Option<u32>,
    #[prost(uint64, optional, tag = "6")]
    request_timeout: Option<u64>,
    #[prost(btree_map = "string, string", tag = "7")]
    headers: BTreeMap<String, String>,
    #[prost(bool, tag = "8")]
    is_concurrent: bool,
    #[prost(message, repeated, tag = "9")]
    orders: Vec<OrderRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StepRecord {
    #[prost(string, tag = "1")]
    action: String,
    #[prost(string, tag = "2")]
    compensation: String,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OrderRecord {
    #[prost(uint32, tag = "1")]
    step: u32,
    #[prost(uint32, repeated, tag = "2")]
    after: Vec<u32>,
}

impl Saga {
    /// The saga but its global id, as a log keeps it: a protobuf message of this crate's own.
    pub fn to_record(&self) -> Vec<u8> {
        let options = &self.options;
        let step = |step: &Step| StepRecord {
            action: step.action.clone(),
            compensation: step.compensation.clone(),
            payload: step.payload.clone(),
        };
        let order = |(step, after): (&usize, &Vec<usize>)| OrderRecord {
            step: index(*step),
            after: after.iter().copied().map(index).collect(),
        };
        let record = Record {
            steps: self.steps.iter().map(step).collect(),
            is_waited_for: options.is_waited_for,
            timeout_to_fail: options.timeout_to_fail.map(nanos),
            retry_interval: options.retry_interval.map(nanos),
            retry_count_max: options.retry_count_max,
            request_timeout: options.request_timeout.map(nanos),
            headers: options.headers.clone(),
            is_concurrent: options.is_concurrent,
            orders: options.orders.iter().map(order).collect(),
        };
        record.encode_to_vec()
    }

    /// The saga that [`to_record`](Self::to_record) wrote down.
    ///
    /// # Errors
    ///
    /// `DataLoss` for bytes that it did not write.
    pub fn from_record(gid: impl Into<String>, record: Bytes) -> Result<Self> {
        let gid = gid.into();
        let record = Record::decode(record).map_err(|error| {
            let message = "the log's record of the saga cannot be read back";
            Error::new(ErrorKind::DataLoss, "saga.read", message).with_context("gid", &gid).with_source(error)
        })?;
        let step = |StepRecord { action, compensation, payload }| Step { action, compensation, payload };
        let order =
            |OrderRecord { step, after }| (step as usize, after.into_iter().map(|step| step as usize).collect());
        let options = SagaOptions {
            is_waited_for: record.is_waited_for,
            timeout_to_fail: record.timeout_to_fail.map(Duration::from_nanos),
            retry_interval: record.retry_interval.map(Duration::from_nanos),
            retry_count_max: record.retry_count_max,
            request_timeout: record.request_timeout.map(Duration::from_nanos),
            headers: record.headers,
            is_concurrent: record.is_concurrent,
            orders: record.orders.into_iter().map(order).collect(),
        };
        Ok(Self { gid, steps: record.steps.into_iter().map(step).collect(), options })
    }
}

/// Five hundred years, and what is longer is as long.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn index(step: usize) -> u32 {
    u32::try_from(step).expect("a saga that was checked has few steps")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_down_is_read_back() {
        let plain = Saga::with_gid("plain");
        let options = SagaOptions {
            is_waited_for: true,
            timeout_to_fail: Some(Duration::from_millis(1_500)),
            retry_interval: Some(Duration::ZERO),
            retry_count_max: Some(3),
            request_timeout: Some(Duration::MAX),
            headers: BTreeMap::from([("x-region".to_owned(), "cn".to_owned())]),
            is_concurrent: true,
            orders: BTreeMap::from([(1, vec![0])]),
        };
        let full = Saga::with_gid("full")
            .step(Step::new("a:1/s.S/Do").compensation("a:1/s.S/Undo").payload(vec![0, 255]))
            .step(Step::new(""))
            .options(options);
        assert_eq!(Saga::from_record("plain", plain.to_record().into()).unwrap(), plain);
        let mut read = Saga::from_record("full", full.to_record().into()).unwrap();
        assert_eq!(read.options.request_timeout.map(|limit| limit.as_secs() > 500 * 365 * 86_400), Some(true));
        read.options.request_timeout = Some(Duration::MAX);
        assert_eq!(read, full);
    }

    #[test]
    fn other_bytes_are_lost_data() {
        let error = Saga::from_record("g-1", Bytes::from_static(b"\xff\xff")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert!(error.to_string().contains("gid=g-1"), "{error}");
    }
}
