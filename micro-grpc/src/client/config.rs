//! The client's settings.

use std::{num::NonZero, thread::available_parallelism, time::Duration};

/// A client's connections and limits; deadlines and retries are its layers' matter.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct GrpcClientConfig {
    /// For a connection to be made; default 1 s.
    pub connect_timeout: Duration,
    /// The first wait before a lost instance is tried again unasked; default 100 ms, growing by
    /// 1.6 with 20 % jitter.
    pub reconnect_backoff: Duration,
    /// The longest such wait; default 10 s.
    pub reconnect_backoff_max: Duration,
    /// A connection is asked whether it lives this often, idle or not; default 10 s.
    pub keepalive_interval: Duration,
    /// A connection that does not answer that is closed after this long; default 5 s.
    pub keepalive_timeout: Duration,
    /// Connections to one instance; default the number of cores, at most 4. One HTTP/2 connection
    /// is one lock.
    pub connection_count: usize,
    /// Calls at a time; default 10,000. More are `ResourceExhausted`.
    pub in_flight_count_max: usize,
    /// How many other instances are tried when a call could not be sent at all; default 2.
    pub reroute_count_max: usize,
    /// Bytes of the headers of one answer; default 16 KiB.
    pub header_bytes_max: u32,
}

impl Default for GrpcClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            reconnect_backoff: Duration::from_millis(100),
            reconnect_backoff_max: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            connection_count: available_parallelism().map_or(1, NonZero::get).min(4),
            in_flight_count_max: 10_000,
            reroute_count_max: 2,
            header_bytes_max: 16 << 10,
        }
    }
}
