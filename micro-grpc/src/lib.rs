//! gRPC of micro-rs on tonic: a server that is an [`App`](micro_core::app::App) component, a client
//! that finds its instances in a registry, deadlines that travel, and one table between
//! [`Error`](micro_core::Error) and [`tonic::Status`].
//!
//! This is the only crate of micro-rs whose public types may be tonic's.

pub mod client;
pub mod server;
pub mod status;

mod body;
mod metadata;

pub use client::{GrpcClient, GrpcClientBuilder, GrpcClientConfig};
pub use metadata::{metadata_of, request};
pub use server::{GrpcServer, GrpcServerBuilder, GrpcServerConfig};
pub use status::{from_status, to_status};
