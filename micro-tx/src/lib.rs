//! Transactions, outbox, inbox, barrier, parked deliveries and dead letters on SQL databases, with sqlx.
//!
//! [`SqlDatabase`] is the transaction manager and hands out the stores; [`SqlTxExt::sql`] opens a
//! [`Tx`](micro_core::Tx) up where statements are written, in infrastructure code only.
//!
//! ```
//! use micro_core::{Error, TransactionManagerExt};
//! use micro_tx::{SqlDatabase, SqlTxExt};
//!
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! # let folder = tempfile::tempdir().unwrap();
//! # let url = format!("sqlite:{}", folder.path().join("orders.db").display());
//! let database = SqlDatabase::connect_url(&url).await?;
//! database.migrate().await?;
//! database.execute_script("CREATE TABLE orders (code TEXT PRIMARY KEY, status INTEGER NOT NULL)").await?;
//!
//! database
//!     .run(async |tx| {
//!         let insert = "INSERT INTO orders (code, status) VALUES (?, ?)";
//!         tx.sql()?.execute(insert, &["A-17".into(), 2.into()]).await
//!     })
//!     .await?;
//!
//! let row = database.fetch_optional("SELECT status FROM orders WHERE code = ?", &["A-17".into()]).await?;
//! assert_eq!(row.unwrap().get::<i64>(0)?, 2);
//! # database.close().await;
//! # Ok::<_, Error>(()) }).unwrap();
//! ```
//!
//! The module `dtm`, with the feature of that name, is a client of DTM, the coordinator of distributed
//! transactions; it needs none of the databases.
//!
//! # SQLite
//!
//! WAL, `BEGIN IMMEDIATE`, foreign keys on. One connection writes; it is handed out in the order
//! in which it was asked for, so that the tasks of a process wait for each other without the busy
//! timeout's sleeps. Readers have connections of their own and never wait for the writer. The
//! shards of the outbox are owned in process: one process relays a database.
//!
//! # MySQL, MariaDB and PostgreSQL
//!
//! READ COMMITTED on all of them. Connections are handed out in the order in which they were asked
//! for, without a ping: BEGIN notices one that is dead and goes to a fresh one, so that a
//! transaction of n statements costs n + 2 round trips. Every statement has a limit of time, after
//! which its connection is closed; a second before that PostgreSQL ends it, and MariaDB what begins
//! with SELECT. One more connection relays the outbox: it holds the server's locks of the shards it
//! owns, and reads and deletes their rows itself, so that nobody else is the owner by the time a
//! deletion runs.
//!
//! A commit whose answer does not come is `Unknown`: it may be done or not. So is one that a server
//! cannot write to the end, on a full disk say, and one whose fsync failed on SQLite. The same holds
//! of a single write outside a transaction. Who repeats it needs an idempotency key, or the inbox.

#[cfg(not(any(feature = "sqlite", feature = "mysql", feature = "postgres", feature = "dtm")))]
compile_error!("micro-tx does nothing: turn on one of its features `sqlite`, `mysql`, `postgres`, `dtm`");

#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
mod config;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
mod database;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
mod dialect;
#[cfg(feature = "dtm")]
pub mod dtm;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
mod error;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
mod migrate;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
mod ping;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
mod row;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod server;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
mod stores;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
mod transaction;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
mod value;
#[cfg(all(feature = "dtm", any(feature = "mysql", feature = "postgres")))]
mod xa;

#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub use config::{SqlConfig, Synchronous};
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub use database::SqlDatabase;
#[cfg(feature = "mysql")]
pub use mysql::MySqlTx;
#[cfg(feature = "postgres")]
pub use postgres::PostgresTx;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub use row::{ColumnIndex, Row};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteTx;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub use stores::SqlBarrier;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub use transaction::{SqlTx, SqlTxExt};
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub use value::{FromValue, Value};
