//! The layer that makes [`Recover`].

use tower_layer::Layer;

use super::Recover;

/// Catches the panics of the inner service and answers `Internal` for that request only.
///
/// The panic's text is logged here, for nobody else sees it; of a delivery it also stands in the
/// error's context, so that a dead letter names its cause. The peer of a call is not told.
///
/// A service that panicked in `poll_ready` or `call` is used again: what it shares between requests
/// must stay sound when one unwinds, as with any task of tokio's.
///
/// # Contract
///
/// - `a_panic_is_internal_for_its_request_only`: in `poll_ready`, `call` and the future.
/// - `a_panic_in_a_body_ends_it_with_internal_trailers`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecoverLayer;

impl RecoverLayer {
    /// The layer.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for RecoverLayer {
    type Service = Recover<S>;

    fn layer(&self, inner: S) -> Recover<S> {
        Recover::new(inner)
    }
}
