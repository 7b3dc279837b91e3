//! What is kept of a request so that it can be sent again.

use std::future::Future;

use bytes::Bytes;
use http_body::Body;
use micro_core::{consume::DeliveryBatch, flow::Operation};

use super::{RetryBody, body::Replay};
use crate::deadline::{GRPC_TIMEOUT, grpc_timeout, now};

/// A request that can be sent several times.
pub trait Repeat: Operation + Sized {
    /// What the inner service receives.
    type Attempt;
    /// What is kept to make the next attempt from.
    type Kept: Send + Sync;

    /// The first attempt, and what is kept of it; nothing where it cannot be sent again.
    fn keep(self, bytes_max: usize) -> impl Future<Output = (Self::Attempt, Option<Self::Kept>)> + Send;

    /// The next attempt.
    fn again(kept: &Self::Kept) -> Self::Attempt;
}

impl Repeat for DeliveryBatch {
    type Attempt = Self;
    type Kept = Self;

    async fn keep(self, _bytes_max: usize) -> (Self, Option<Self>) {
        (self.clone(), Some(self))
    }

    fn again(kept: &Self) -> Self {
        kept.clone()
    }
}

impl<B> Repeat for http::Request<B>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: Send,
{
    type Attempt = http::Request<RetryBody<B>>;
    type Kept = http::Request<Replay>;

    async fn keep(self, bytes_max: usize) -> (Self::Attempt, Option<Self::Kept>) {
        let (head, body) = self.into_parts();
        match RetryBody::buffer(body, bytes_max).await {
            Ok(replay) => {
                let kept = http::Request::from_parts(head, replay);
                (kept.clone().map(RetryBody::from), Some(kept))
            }
            Err(body) => (http::Request::from_parts(head, body), None),
        }
    }

    fn again(kept: &Self::Kept) -> Self::Attempt {
        let mut attempt = kept.clone().map(RetryBody::from);
        // The callee counts from when it receives the attempt, so the time that the earlier ones
        // took must go off.
        if let Some(deadline) = kept.deadline().filter(|_| kept.headers().contains_key(&GRPC_TIMEOUT)) {
            grpc_timeout::write(attempt.headers_mut(), deadline.saturating_duration_since(now()));
        }
        attempt
    }
}
