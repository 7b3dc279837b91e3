//! Tests of the facade with programs of other frameworks, in one binary.

#[cfg(all(feature = "grpc", any(feature = "registry-consul", feature = "registry-etcd")))]
mod peer;
#[cfg(all(feature = "grpc", any(feature = "registry-consul", feature = "registry-etcd")))]
mod registries;
