//! From a call's headers to the metadata its handler sees.

use http::HeaderMap;
use micro_core::Metadata;

/// Adds everything that is text, not gRPC's or HTTP's own, and no credential: metadata is passed on
/// to further services, and a credential was given to this one.
///
/// The values of a name that comes several times are joined by `, `, as RFC 9110 §5.3 allows it and
/// go-micro does it.
pub fn add_headers(metadata: &mut Metadata, headers: &HeaderMap) {
    for name in headers.keys().filter(|name| !is_reserved(name.as_str())) {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let Some(first) = values.next() else { continue };
        let joined = values.fold(first.to_owned(), |joined, value| joined + ", " + value);
        metadata.insert(name.as_str(), joined);
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
