//! Tests of the facade with programs of other frameworks, in one binary.

mod peer;

#[cfg(any(feature = "registry-consul", feature = "registry-etcd"))]
mod registries;
