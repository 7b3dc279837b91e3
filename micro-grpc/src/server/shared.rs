//! A service that many calls share: boxed once, and cloned for a call without the heap.

use std::{future::Future, pin::Pin};

use tower::{Service, ServiceExt as _};

/// The future of a [`Shared`] service.
pub(crate) type Answering<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

/// A service of which each call takes a clone of its own, as hyper and tonic hand calls out.
///
/// A `BoxCloneSyncService` does the same with one more allocation a call: its clone is a box.
pub(crate) trait Shared<Request, R, E>: Send + Sync {
    /// Answers a call, by a clone.
    fn answer(&self, request: Request) -> Answering<R, E>;
}

impl<S, Request> Shared<Request, S::Response, S::Error> for S
where
    S: Service<Request> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    Request: Send + 'static,
{
    fn answer(&self, request: Request) -> Answering<S::Response, S::Error> {
        Box::pin(self.clone().oneshot(request))
    }
}
