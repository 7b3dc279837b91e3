//! Trying again: bounded in number, in time and by a budget.

mod body;
mod config;
mod layer;
mod repeat;
mod service;

pub use body::RetryBody;
pub use config::RetryConfig;
pub use layer::RetryLayer;
pub use repeat::Repeat;
pub use service::Retry;
