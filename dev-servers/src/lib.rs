//! Starts the real servers that tests and benchmarks need: Kafka, Consul, etcd, MariaDB, PostgreSQL, DTM,
//! Redis.
//!
//! They run natively, on loopback, from what the package registries serve; all they need stands
//! under the workspace's `target/servers/` (or where `MICRO_SERVERS_DIR` says):
//!
//! - [`Servers`] are the ones that all tests of a checkout share: `cargo xtask servers up`.
//! - [`shared`] is where a test gets the URL of one of those.
//! - [`Server`] is a server of a test's own, which it may kill, pause and restart.
//! - [`SmallDisk`] is a disk of a test's own, which it may fill.
//! - [`go_peer`] and [`go_chain`] are programs on go-micro v4, to talk to and to be replaced,
//!   [`go_zero`] publishes and subscribes as go-zero does, [`go_dtm`] is DTM's client for Go, and
//!   [`grpcurl`] calls whatever gRPC server offers reflection.
//!
//! Everything here blocks: an asynchronous test calls it through `spawn_blocking`.

#![forbid(unsafe_code)]

mod disk;
mod go;
mod kind;
mod server;
mod servers;
mod site;

mod install;
mod ports;
mod probe;
mod process;

mod consul;
mod dtm;
mod etcd;
mod kafka;
mod mariadb;
mod postgres;
mod redis;

#[cfg(test)]
mod compose;

pub use crate::{
    disk::SmallDisk,
    go::{go_chain, go_dtm, go_peer, go_zero, grpcurl},
    install::install_packages,
    kind::Kind,
    ports::free_port,
    server::Server,
    servers::{Servers, Shared, shared},
};
