//! The barrier of global transactions' branches on Redis, 6 or newer.
//!
//! [`RedisBarrier`] checks and adjusts an integer, stock or a balance, once for each branch and in the
//! right order, whatever its coordinator repeats: what [`BarrierStore`](micro_core::barrier::BarrierStore)
//! does within a transaction of a database, in one script.
//!
//! ```no_run
//! use micro_core::{barrier::Barrier, branch::{Branch, BranchError, Mode, Op}};
//! use micro_redis::{RedisBarrier, RedisConfig};
//!
//! # async fn run() -> Result<(), BranchError> {
//! let stock = RedisBarrier::connect(RedisConfig::from_url("redis://127.0.0.1:6379")?).await?;
//! // In a handler: `BranchCall::barrier` of micro-grpc.
//! let mut barrier = Barrier::new(Branch::new(Mode::Saga, "{A-17}-order-1", "01", Op::Action)?);
//! match stock.adjust(&mut barrier, "stock:{A-17}", -2).await? {
//!     Some(left) => println!("{left} are left"),
//!     None => println!("done before, or not to be done any more"),
//! }
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod barrier;
mod config;
mod connection;
#[cfg(feature = "tls")]
mod tls;

mod error;

pub use barrier::RedisBarrier;
pub use config::RedisConfig;
