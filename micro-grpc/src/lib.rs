//! gRPC of micro-rs on tonic: a server that is an [`App`](micro_core::app::App) component, a client
//! that finds its instances in a registry, deadlines that travel, and one table between
//! [`Error`](micro_core::Error) and [`tonic::Status`].
//!
//! Services of go-micro v4 call it and are called: [`GrpcServerBuilder::go_micro`] answers as their
//! servers do, [`GrpcClientBuilder::go_micro`] calls as their clients do, and [`from_status`] understands
//! their failures always. Those that speak mucp, go-micro's own RPC over HTTP/1.1, are taken with
//! [`GoMicroConfig::with_mucp`] and called where the registry says so; unary calls alone.
//!
//! A coordinator of global transactions, DTM's server say, calls its methods as branches: [`BranchCall`]
//! reads which, and answers in the coordinator's terms.
//!
//! This is the only crate of micro-rs whose public types may be tonic's.

pub mod branch;
pub mod client;
pub mod raw;
pub mod server;
pub mod status;

mod body;
mod gathered;
mod go_micro;
mod metadata;

pub use branch::BranchCall;
pub use client::{GrpcClient, GrpcClientBuilder, GrpcClientConfig};
pub use go_micro::{GoMicroConfig, GoMicroError, StatusCompat};
pub use metadata::{metadata_of, request};
pub use raw::{GrpcBranchCaller, RawFailure, RawGrpcClient, WorkflowService};
pub use server::{GrpcServer, GrpcServerBuilder, GrpcServerConfig, endpoints_of};
pub use status::{from_status, to_status};

/// What reads bytes and texts of a peer, for fuzzing; no part of the interface.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::go_micro::{decode as go_micro_error, nanoseconds, unflattened};
}
