//! The server's settings.

use std::{collections::BTreeMap, time::Duration};

/// Where a server listens and how much it takes on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct GrpcServerConfig {
    /// `host:port` to listen on; port 0 takes a free one. Default `127.0.0.1:0`.
    pub address: String,
    /// `host:port` that the registry is told; default the address listened on. Needed where that
    /// is every address (`0.0.0.0`, `[::]`), which nobody can call.
    pub advertise: Option<String>,
    /// The version that the registry is told; default `latest`.
    pub version: String,
    /// What makes the instance's id, `<service>-<id>`; default a new UUID. Two instances of one id
    /// push each other out of the registry.
    pub id: Option<String>,
    /// Names and values that the registry is told of the instance, beside `protocol`, `server` and
    /// `transport`.
    pub metadata: BTreeMap<String, String>,
    /// Bytes of one message, received or sent; default 4 MiB. A longer one is `OutOfRange`. tonic
    /// itself receives at most 4 MiB unless the generated server's `max_decoding_message_size` says
    /// otherwise.
    pub message_bytes_max: usize,
    /// Calls at a time on one connection; default 200. More wait at the client.
    pub concurrent_stream_count_max: u32,
    /// Calls at a time on all connections; default 2,000. More are `ResourceExhausted`, but for
    /// health checks.
    pub in_flight_count_max: usize,
    /// Connections at a time; default 10,000. More wait in the kernel.
    pub connection_count_max: usize,
    /// For a new connection to begin HTTP/2; default 5 s.
    pub handshake_timeout: Duration,
    /// A connection is asked whether it lives this often; default 10 s.
    pub keepalive_interval: Duration,
    /// A connection that does not answer that is closed after this long; default 5 s.
    pub keepalive_timeout: Duration,
    /// Bytes of the headers of one call; default 16 KiB.
    pub header_bytes_max: u32,
}

impl Default for GrpcServerConfig {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:0".to_owned(),
            advertise: None,
            version: "latest".to_owned(),
            id: None,
            metadata: BTreeMap::new(),
            message_bytes_max: 4 << 20,
            concurrent_stream_count_max: 200,
            in_flight_count_max: 2_000,
            connection_count_max: 10_000,
            handshake_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            header_bytes_max: 16 << 10,
        }
    }
}
