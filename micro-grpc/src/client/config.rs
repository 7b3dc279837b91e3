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
    /// After so long a silence a connection is asked whether it lives, idle or not; default 10 s. With
    /// pings ([`sends_pings`](Self::sends_pings)) it is an HTTP/2 ping, to be set to no less than the
    /// peers permit; without, a probe of TCP, which no peer counts, in whole seconds from 1 on.
    pub keepalive_interval: Duration,
    /// A connection that does not answer that is closed after this long; default 5 s. Without pings
    /// also one where what was sent is not acknowledged for both times together (Linux).
    pub keepalive_timeout: Duration,
    /// Whether it is asked by HTTP/2 pings, which find a peer whose process stands still as well as one
    /// that is gone; probes of TCP find the latter. Default, where nothing is said: a
    /// [`GrpcClient`](crate::GrpcClient) sends pings, for the servers of this crate permit them; one with
    /// [`go_micro`](crate::GrpcClientBuilder::go_micro) and a [`RawGrpcClient`](crate::RawGrpcClient)
    /// send none.
    ///
    /// A server of grpc-go without a policy of its own, as those of go-micro, go-zero and DTM, closes a
    /// connection, with the calls on it, at the fourth ping since it last sent headers or data, unless they are
    /// 5 minutes apart, or 2 hours while there is no call. Source: grpc-go 1.65,
    /// `internal/transport/http2_server.go`, `handlePing`.
    pub sends_pings: Option<bool>,
    /// Connections to one instance; default the number of cores, at most 4. One HTTP/2 connection
    /// is one lock.
    pub connection_count: usize,
    /// Calls at a time; default 10,000. More are `ResourceExhausted`.
    pub in_flight_count_max: usize,
    /// How many other instances are tried when a call could not be sent at all; default 2.
    pub reroute_count_max: usize,
    /// Bytes of the headers of one answer, and of its trailers, which hold the text of a status: nine for
    /// a character of Chinese; default 1 MiB. A longer answer is lost, and its connection, with all calls
    /// on it, at four times as much.
    ///
    /// It is what a peer may have a client keep in memory for each call that waits for its answer, four
    /// times as much for the one that is being read on each connection; what is usual is less than 1 KiB.
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
            sends_pings: None,
            connection_count: available_parallelism().map_or(1, NonZero::get).min(4),
            in_flight_count_max: 10_000,
            reroute_count_max: 2,
            header_bytes_max: 1 << 20,
        }
    }
}
