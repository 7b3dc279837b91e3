//! Which answers can still panic after they were given.

use micro_core::{Result, broker::Receipt};

use super::RecoverBody;

/// An answer, with what is still to run of it (a response's body) guarded against panics.
pub trait Guard {
    /// The guarded answer.
    type Guarded;

    /// Guards the answer.
    fn guard(self) -> Self::Guarded;
}

impl Guard for () {
    type Guarded = ();

    fn guard(self) {}
}

impl Guard for Vec<Result<Receipt>> {
    type Guarded = Self;

    fn guard(self) -> Self {
        self
    }
}

impl<B> Guard for http::Response<B> {
    type Guarded = http::Response<RecoverBody<B>>;

    fn guard(self) -> Self::Guarded {
        self.map(RecoverBody::new)
    }
}
