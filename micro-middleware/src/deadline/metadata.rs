//! From a call's headers to the metadata its handler sees.

use http::HeaderMap;
use micro_core::Metadata;

/// Everything that is text and not gRPC's or HTTP's own.
pub(super) fn of_headers(headers: &HeaderMap) -> Metadata {
    let mut metadata = Metadata::new();
    for (name, value) in headers {
        if is_reserved(name.as_str()) {
            continue;
        }
        if let Ok(value) = value.to_str() {
            metadata.insert(name.as_str(), value);
        }
    }
    metadata
}

/// A name that ends in `-bin` holds base64 of bytes and is read by tonic.
fn is_reserved(name: &str) -> bool {
    name.starts_with("grpc-") || name.ends_with("-bin") || matches!(name, "te" | "content-type" | "user-agent")
}
