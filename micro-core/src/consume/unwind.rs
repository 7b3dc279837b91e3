//! Turns the panic of a user's code into an error, so that it costs its own message a retry.

use std::{any::Any, future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt as _;

use crate::{Error, ErrorKind, Result};

/// Runs `work`; a panic becomes an `Internal` error that carries its text.
///
/// Unwind safety is asserted: what the work touched is dropped (its transaction is rolled back).
pub(crate) async fn unwound<T>(operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|payload| Err(panicked(operation, payload)))
}

/// As [`unwound`], of a plain call.
pub(crate) fn unwound_call<T>(operation: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(panicked(operation, payload)))
}

fn panicked(operation: &'static str, payload: Box<dyn Any + Send>) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "its payload is not text".to_owned());
    Error::new(ErrorKind::Internal, operation, format!("panicked: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_internal_error_with_its_text() {
        let price = 7;
        let error = unwound::<()>("handler", async { panic!("no price {price}") }).await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Internal, "panicked: no price 7"));
        let error = unwound_call::<()>("handler", || panic!("static text")).unwrap_err();
        assert_eq!(error.message(), "panicked: static text");
    }
}
