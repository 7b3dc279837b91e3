//! Tests of the facade: with programs of other frameworks, and of several crates together; in one binary.

#[cfg(all(feature = "grpc", feature = "tx-mysql", feature = "tx-sqlite"))]
mod branches;
#[cfg(all(feature = "grpc", any(feature = "registry-consul", feature = "registry-etcd")))]
mod calls;
#[cfg(feature = "registry-etcd")]
mod go_zero;
#[cfg(feature = "tx-sqlite")]
mod http_branches;
#[cfg(all(feature = "redis", feature = "tx-dtm"))]
mod redis_branches;

#[cfg(any(feature = "registry-etcd", all(feature = "grpc", feature = "registry-consul")))]
mod peer;
#[cfg(all(feature = "grpc", any(feature = "registry-consul", feature = "registry-etcd")))]
mod registries;
