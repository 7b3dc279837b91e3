//! Checks and adjusts integers behind the barrier, in one script.

use std::{sync::Arc, time::Duration};

use micro_core::{
    Error, ErrorKind, Result,
    barrier::{Barrier, BarrierCall, Passage, Prepared},
    branch::{Branch, BranchError, Mode, Op},
};
use redis::{FromRedisValue, Script, ScriptInvocation};

use crate::{
    config::RedisConfig,
    connection::SharedConnection,
    error::{CONNECT, from_redis, late},
};

/// The largest amount: what a script's numbers tell exactly.
const AMOUNT_MAX: u64 = 1 << 53;

/// The barrier of global transactions' branches whose work is to adjust an integer of Redis: stock, a
/// balance, a quota. Clones share one connection: a call that finds it broken, or that it cannot be made,
/// fails, and the next one makes it anew.
///
/// The check, the barrier and the adjusting are one script, so that nothing comes between them. The keys
/// `gid-branch-operation-01` and their values are those of DTM's Go client (1.17), which may work on the
/// same integers. What differs:
///
/// - A duplicate is noticed before the integer is looked at: who asks again after a success is told so,
///   and not that there is too little by now.
/// - What is undone is not checked: a compensation that takes something away would else be refused for
///   ever. The integer may get below zero by it.
/// - A `rollback` undoes an action, as `compensate` does, and `cancel` a try.
///
/// # Limits
///
/// - A key of the barrier is forgotten after [`barrier_ttl`](RedisConfig::barrier_ttl), an undoing's
///   earlier call included: after that a coordinator that still calls is served anew, and an undoing takes
///   its action for one that never came, and undoes nothing. Keep them longer than a transaction can last.
/// - It is as durable as Redis is set: with `appendfsync everysec` a crash forgets the last second, the
///   row and the integer alike. `maxmemory-policy` must not evict keys: `noeviction`, or a `volatile-…`
///   one only where the barrier's keys may be lost.
/// - In Redis Cluster the integer's key and the global id need the same hash tag, `stock:{A-17}` and
///   `{A-17}-order-1`, for a script's keys are in one slot. One server is spoken to: the one that has the
///   slot, or a proxy. Where another server has it, that is `Unavailable`, and told so.
/// - The parts of a key are joined by `-`, as DTM's client joins them, and a message to a topic has branches
///   `01-01`, `01-02`: no global id may be another one followed by `-` and two digits (`order-7` and
///   `order-7-01`), or a branch of the one is taken for a branch of the other. UUIDs are safe, and so are
///   ids of one length.
/// - An integer has 64 bits, an amount at most 2^53.
#[derive(Clone)]
pub struct RedisBarrier {
    connection: SharedConnection,
    address: Arc<str>,
    request_timeout: Duration,
    ttl_seconds: u64,
    adjust: Script,
    prepared: Script,
}

impl RedisBarrier {
    /// Connects to Redis.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that cannot be; `Unavailable` or `DeadlineExceeded` with the address
    /// where no Redis answers within the connect timeout; `Unauthenticated`.
    pub async fn connect(config: RedisConfig) -> Result<Self> {
        const OPERATION: &str = CONNECT;
        let (client, address) = config.client()?;
        let connecting = SharedConnection::connect(client, config.connect_timeout);
        let connection = tokio::time::timeout(config.connect_timeout, connecting)
            .await
            .map_err(|_| late(OPERATION, &address))?
            .map_err(|error| from_redis(OPERATION, &address, error))?;
        Ok(Self {
            connection,
            address: address.into(),
            request_timeout: config.request_timeout,
            ttl_seconds: config.barrier_ttl_seconds(),
            adjust: Script::new(include_str!("adjust.lua")),
            prepared: Script::new(include_str!("prepared.lua")),
        })
    }

    /// Adds `amount`, which may be negative, to the integer at `key`, behind the call's next barrier.
    /// Answers what it is now; `None` where it must not be done (again), which is a success. Where no
    /// coordinator called, it is done each time.
    ///
    /// # Errors
    ///
    /// [`BranchError::Failed`] where the integer is missing or would be negative, unless something is
    /// undone: then nothing is left, and the next call is of the same barrier. `InvalidArgument` for an
    /// amount over 2^53, and in a cluster for keys in different slots; `AlreadyExists` for the local part
    /// of a two-phase message that took place, or was forbidden, before; `FailedPrecondition` for what is
    /// no integer. After `DeadlineExceeded` and `Unavailable` it may be done, and asking again tells.
    ///
    /// # Cancel safety
    ///
    /// As after `DeadlineExceeded`.
    pub async fn adjust(&self, barrier: &mut Barrier, key: &str, amount: i64) -> Result<Option<i64>, BranchError> {
        const OPERATION: &str = "barrier.adjust";
        if amount.unsigned_abs() > AMOUNT_MAX {
            let message = "the amount is larger than Redis's scripts can count";
            return Err(Error::new(ErrorKind::InvalidArgument, OPERATION, message)
                .with_context("amount", amount)
                .with_context("amount_max", AMOUNT_MAX)
                .into());
        }
        let call = barrier.next_call();
        let rows = call.as_ref().map(Rows::of).unwrap_or_default();
        let mut invocation = self.adjust.prepare_invoke();
        // Without a row of its own the integer's key stands in: all are of one slot.
        invocation
            .key(key)
            .key(rows.own.as_deref().unwrap_or(key))
            .key(rows.origin.as_deref().unwrap_or(key))
            .arg(amount)
            .arg(self.ttl_seconds)
            .arg(i32::from(rows.own.is_some()))
            .arg(i32::from(rows.origin.is_some()));
        let (word, integer): (String, String) = self.ask(OPERATION, &invocation).await?;
        let passage = match word.as_str() {
            "done" => Passage::Proceed,
            "duplicate" => Passage::Duplicate,
            "empty" => Passage::Empty,
            "overtaken" => Passage::Overtaken,
            "missing" => return Err(BranchError::failed(format!("there is no {key}"))),
            _ => return Err(BranchError::failed(format!("too little of {key}: {integer}, and {amount} to add"))),
        };
        if passage != Passage::Proceed && call.is_some_and(|call| call.branch.op == Op::Msg) {
            let message = "the local part of this message took place, or was forbidden, before";
            return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, message).with_context("key", key).into());
        }
        barrier.mark_passed();
        match passage {
            Passage::Proceed => Ok(Some(integer.parse().map_err(|_| self.no_integer(OPERATION, &integer))?)),
            Passage::Duplicate | Passage::Empty | Passage::Overtaken => Ok(None),
        }
    }

    /// Whether the local part of this two-phase message took place. If not, it is forbidden from now on.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an id that is empty or longer than
    /// [`GID_BYTES_MAX`](micro_core::branch::GID_BYTES_MAX).
    pub async fn prepared(&self, gid: &str) -> Result<Prepared> {
        let branch = Branch::new(Mode::Msg, gid, "00", Op::Msg)?;
        let row = row(&BarrierCall::new(&branch, 1), &Op::Msg);
        let mut invocation = self.prepared.prepare_invoke();
        invocation.key(row).arg(self.ttl_seconds);
        let is_committed: bool = self.ask("barrier.prepared", &invocation).await?;
        Ok(if is_committed { Prepared::Committed } else { Prepared::RolledBack })
    }

    async fn ask<T: FromRedisValue>(&self, operation: &'static str, invocation: &ScriptInvocation<'_>) -> Result<T> {
        tokio::time::timeout(self.request_timeout, self.connection.run(invocation))
            .await
            .map_err(|_| late(operation, &self.address))?
            .map_err(|error| from_redis(operation, &self.address, error))
    }

    fn no_integer(&self, operation: &'static str, text: &str) -> Error {
        Error::new(ErrorKind::Internal, operation, "Redis adjusted what is no integer")
            .with_context("address", &self.address)
            .with_context("found", text.escape_debug())
    }
}

impl std::fmt::Debug for RedisBarrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisBarrier").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The keys of a call's rows.
#[derive(Default)]
struct Rows {
    own: Option<String>,
    origin: Option<String>,
}

impl Rows {
    fn of(call: &BarrierCall<'_>) -> Self {
        let op = &call.branch.op;
        Self { own: Some(row(call, op)), origin: op.origin().map(|origin| row(call, &origin)) }
    }
}

fn row(call: &BarrierCall<'_>, op: &Op) -> String {
    format!("{}-{}-{op}-{}", call.branch.gid, call.branch.id, call.barrier_id)
}
