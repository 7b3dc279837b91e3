//! The integration tests of micro-tx, in one binary.

mod barrier;
mod cancel;
mod changes;
mod conflicts;
mod conformance;
mod connections;
mod database;
#[cfg(feature = "dtm")]
mod dtm;
mod dtm_model;
mod faults;
mod full_disk;
mod go_barrier;
mod inbox_service;
mod indexes;
mod on_servers;
mod probe;
mod proxy;
mod relays;
mod saga_kill;
mod sagas;
mod server;
mod session;
mod spoiled;
mod sqlite;
mod sqlite_disk;
mod sqlite_worker;
mod statements;
mod stores;
mod values;
