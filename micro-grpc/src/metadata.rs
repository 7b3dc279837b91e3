//! Metadata from a call to the calls made for it: the deadline and the trace go on.

use micro_core::Metadata;
use tonic::Request;

/// What came beside a served call: its caller's headers, its deadline, its trace.
///
/// Empty where no [`ServerDeadlineLayer`](micro_middleware::ServerDeadlineLayer) stands before the
/// handler.
pub fn metadata_of<T>(request: &Request<T>) -> Metadata {
    request.extensions().get::<Metadata>().cloned().unwrap_or_default()
}

/// A request made on behalf of what `metadata` came with: it is answered before that deadline and
/// belongs to that trace.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
/// use micro_core::Metadata;
///
/// let mut metadata = Metadata::new();
/// metadata.limit_deadline(Instant::now() + Duration::from_secs(1));
/// let request = micro_grpc::request("John", &metadata);
/// assert_eq!(micro_grpc::metadata_of(&request), metadata);
/// ```
pub fn request<T>(message: T, metadata: &Metadata) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(metadata.clone());
    request
}
