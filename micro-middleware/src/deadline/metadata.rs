//! From a call's headers to the metadata its handler sees.

use http::HeaderMap;
use micro_core::Metadata;

/// Adds everything that is text, not gRPC's or HTTP's own, and no credential: metadata is passed on
/// to further services, and a credential was given to this one.
pub(super) fn add_headers(metadata: &mut Metadata, headers: &HeaderMap) {
    for (name, value) in headers {
        if is_reserved(name.as_str()) {
            continue;
        }
        if let Ok(value) = value.to_str() {
            metadata.insert(name.as_str(), value);
        }
    }
}

/// A name that ends in `-bin` holds base64 of bytes and is read by tonic.
fn is_reserved(name: &str) -> bool {
    name.starts_with("grpc-") || name.ends_with("-bin") || is_of_http(name) || is_credential(name)
}

fn is_of_http(name: &str) -> bool {
    matches!(name, "te" | "content-type" | "content-length" | "user-agent")
}

fn is_credential(name: &str) -> bool {
    matches!(name, "authorization" | "proxy-authorization" | "cookie")
}
