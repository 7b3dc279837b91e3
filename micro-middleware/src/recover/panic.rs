//! From a panic's payload to an error.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use micro_core::{Error, ErrorKind};

/// The longest panic text that goes into an error and from there into a dead letter.
const PANIC_TEXT_BYTES_MAX: usize = 512;

/// Runs `work`; a panic becomes an `Internal` error and is logged, for the error's receiver (a
/// caller on another machine) must not see its text.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    // The request that panicked is not looked at again, and what outlives it is the service's own.
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = text_of(payload.as_ref());
        tracing::error!(panic = text, "a handler panicked");
        Error::new(ErrorKind::Internal, "recover", "the handler panicked").with_context("panic", text)
    })
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("not a text");
    let mut end = text.len().min(PANIC_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
