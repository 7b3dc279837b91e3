//! The settings of a server that answers go-micro's clients.

/// How a server answers go-micro v4's clients; what it means to switch it on is told at
/// [`GrpcServerBuilder::go_micro`](crate::GrpcServerBuilder::go_micro).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct GoMicroConfig {
    /// Which status a failed call has; default [`StatusCompat::Real`].
    pub status_compat: StatusCompat,
    /// Content types beside Go's own whose messages are protobuf: what a Go service registers with
    /// `Codec(…)`. Default `application/grpc+dtm_raw`, with which DTM's server calls.
    pub proto_content_types: Vec<String>,
    /// `host:port` where unary calls in mucp, go-micro's own RPC over HTTP/1.1, are taken as well; port
    /// 0 takes a free one. Default none. What it means is told at [`with_mucp`](Self::with_mucp).
    pub mucp_address: Option<String>,
}

/// Which gRPC status the callers of a failed call see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusCompat {
    /// The error's own code, the error as go-micro's JSON for a message, and go-micro's error as the
    /// first detail. Go's clients read the details; callers that look at codes (DTM, a retry) see
    /// the right ones.
    #[default]
    Real,
    /// As go-micro v4 sends what its handlers return as gRPC statuses: `UNKNOWN` with the message
    /// `rpc error: code = NotFound desc = …` and no detail. `CANCELLED`, `DEADLINE_EXCEEDED` and
    /// `UNKNOWN` stay what they are, as Go's own errors of context and plain ones do.
    ///
    /// For callers that look at that text. A [`GoMicroError`](crate::GoMicroError) and what the
    /// server itself refuses keep their code, as in Go; a body that cannot be decoded is among that.
    V4,
}

impl Default for GoMicroConfig {
    fn default() -> Self {
        Self {
            status_compat: StatusCompat::default(),
            proto_content_types: vec!["application/grpc+dtm_raw".to_owned()],
            mucp_address: None,
        }
    }
}

impl GoMicroConfig {
    /// Sets which status a failed call has.
    #[must_use]
    pub fn with_status_compat(mut self, status_compat: StatusCompat) -> Self {
        self.status_compat = status_compat;
        self
    }

    /// Adds a content type whose messages are protobuf.
    #[must_use]
    pub fn with_proto_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.proto_content_types.push(content_type.into());
        self
    }

    /// Takes unary calls in mucp at this address too: what go-micro's clients speak without the gRPC
    /// plugin.
    ///
    /// The registry is told of this address, with `protocol` = `mucp`, in place of gRPC's, for
    /// go-micro's clients pick any node of a name and speak their own protocol to it: a name is one
    /// protocol's. gRPC, health and reflection go on being served at the server's own address;
    /// `advertise` is what the registry is told. micro-rs's clients follow the metadata and call in
    /// mucp, without streams.
    ///
    /// Messages are `application/json` or `application/protobuf`. Calls pass the same layers as gRPC's
    /// and have the same limits.
    #[must_use]
    pub fn with_mucp(mut self, address: impl Into<String>) -> Self {
        self.mucp_address = Some(address.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_from_a_file() {
        let config: GoMicroConfig = serde_json::from_str(r#"{"status_compat":"v4"}"#).unwrap();
        assert_eq!(config, GoMicroConfig::default().with_status_compat(StatusCompat::V4));
        let config: GoMicroConfig = serde_json::from_str(r#"{"proto_content_types":[]}"#).unwrap();
        assert_eq!(config.status_compat, StatusCompat::Real);
        let added = config.with_proto_content_type("application/grpc+own");
        assert_eq!(added.proto_content_types, ["application/grpc+own"]);
        let config: GoMicroConfig = serde_json::from_str(r#"{"mucp_address":"127.0.0.1:0"}"#).unwrap();
        assert_eq!(config, GoMicroConfig::default().with_mucp("127.0.0.1:0"));
    }
}
