//! Where the wire meets the use cases: calls, events received, events published.

pub mod consume;
pub mod deductions;
pub mod grpc;
pub mod publish;
