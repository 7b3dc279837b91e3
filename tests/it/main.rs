//! Tests of the facade with programs of other frameworks, in one binary.

#[cfg(all(feature = "grpc", any(feature = "registry-consul", feature = "registry-etcd")))]
mod calls;
#[cfg(feature = "registry-etcd")]
mod go_zero;

#[cfg(any(feature = "registry-etcd", all(feature = "grpc", feature = "registry-consul")))]
mod peer;
#[cfg(all(feature = "grpc", any(feature = "registry-consul", feature = "registry-etcd")))]
mod registries;
