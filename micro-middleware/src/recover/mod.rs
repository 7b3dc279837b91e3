//! A panic costs its own request an `internal` error, and nobody else anything.

mod body;
mod future;
mod guard;
mod layer;
mod panic;
mod service;

pub use body::RecoverBody;
pub use future::ResponseFuture;
pub use guard::Guard;
pub use layer::RecoverLayer;
pub use service::Recover;
