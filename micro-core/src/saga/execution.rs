//! Carries one saga out: its actions, and where one is refused what undoes them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use super::{
    BranchCaller, BranchRequest, EmbeddedCoordinatorConfig, Saga, SagaChange, SagaProgress, Step,
    embedded::Waiters,
    worker::{Carrier, Held},
};
use crate::{
    Error, ErrorKind, Result,
    branch::{Branch, BranchAnswer, Mode, Op, shown_url},
    consume::{trouble::backoff, unwind::unwound},
};

/// The longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 1_024;

/// Carries sagas out by calling their branches.
pub(super) struct Execution {
    caller: Arc<dyn BranchCaller>,
    config: EmbeddedCoordinatorConfig,
    pub(super) waiters: Waiters,
}

impl Execution {
    pub(super) fn new(caller: Arc<dyn BranchCaller>, config: EmbeddedCoordinatorConfig) -> Self {
        Self { caller, config, waiters: Waiters::default() }
    }

    /// Checks that the caller could make the calls of each step.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, with the step and what is called.
    pub(super) fn check(&self, saga: &Saga) -> Result<()> {
        for step in 0..saga.steps.len() {
            for op in [Op::Action, Op::Compensate] {
                let branch = branch(saga, step, op.clone())?;
                let request = request(saga, step, &branch, &self.config);
                if !request.url.is_empty() {
                    let told = |error: Error| {
                        error.with_context("gid", &saga.gid).with_context("step", step).with_context("op", &op)
                    };
                    self.caller.check(&request).map_err(told)?;
                }
            }
        }
        Ok(())
    }
}

/// The branch of a step, counted from 0.
fn branch(saga: &Saga, step: usize, op: Op) -> Result<Branch> {
    Branch::new(Mode::Saga, &saga.gid, format!("{:02}", step + 1), op)
}

/// The call of a step.
fn request<'a>(
    saga: &'a Saga,
    step: usize,
    branch: &'a Branch,
    config: &EmbeddedCoordinatorConfig,
) -> BranchRequest<'a> {
    let Step { action, compensation, payload } = &saga.steps[step];
    BranchRequest::new(if branch.op == Op::Action { action } else { compensation }, branch)
        .payload(payload.clone())
        .headers(&saga.options.headers)
        .timeout(saga.options.request_timeout.unwrap_or(config.request_timeout))
}

#[async_trait]
impl Carrier for Execution {
    async fn carry(&self, held: &Held) -> Option<SagaChange> {
        let mut run = Run {
            saga: held.saga(),
            config: &self.config,
            caller: &*self.caller,
            held,
            progress: held.progress().clone(),
            retry_count: 0,
            trouble: None,
        };
        run.carry().await
    }

    fn written(&self, gid: &str, change: &SagaChange) {
        self.waiters.tell(gid, change);
    }
}

/// One holding of a saga.
struct Run<'a> {
    saga: &'a Saga,
    config: &'a EmbeddedCoordinatorConfig,
    caller: &'a dyn BranchCaller,
    held: &'a Held,
    progress: SagaProgress,
    /// How many calls of actions were made again at once.
    retry_count: u32,
    /// The last error of a call.
    trouble: Option<String>,
}

/// What a direction came to.
enum End {
    Done,
    Refused(String),
    Pause(Duration),
}

/// The calls of one direction between two pauses.
#[derive(Default)]
struct Round<'a> {
    in_flight: FuturesUnordered<BoxFuture<'a, (usize, Result<BranchAnswer>)>>,
    running: BTreeSet<usize>,
    /// Those to call again after a pause.
    waiting: BTreeSet<usize>,
    /// Whether one of them failed, and did not just ask for patience.
    has_failed: bool,
    refusal: Option<String>,
}

impl<'a> Run<'a> {
    async fn carry(&mut self) -> Option<SagaChange> {
        if self.progress.rollback_reason.is_none() {
            match self.go_forward().await? {
                End::Done => return Some(SagaChange::Succeeded),
                End::Pause(pause) => return Some(SagaChange::Waiting(self.progress.clone(), pause)),
                End::Refused(reason) => self.turn_back(reason).await?,
            }
        }
        let reason = self.progress.rollback_reason.clone().unwrap_or_default();
        match self.go_back().await? {
            End::Pause(pause) => Some(SagaChange::Waiting(self.progress.clone(), pause)),
            End::Done | End::Refused(_) => Some(SagaChange::RolledBack(reason)),
        }
    }

    /// Decides for the way back. That must stand in the log before anything is undone: whoever comes next
    /// would call the actions again, and be told that they succeeded though they are undone.
    async fn turn_back(&mut self, reason: String) -> Option<()> {
        self.progress.rollback_reason = Some(reason);
        self.progress.failure_count = 0;
        let is_recorded = self.to_undo().next().is_none() || self.held.record(&self.progress).await;
        is_recorded.then_some(())
    }

    async fn go_forward(&mut self) -> Option<End> {
        let mut round = Round::default();
        loop {
            if round.refusal.is_none() && !self.held.is_stopping() {
                if self.is_overdue() {
                    let limit = self.saga.options.timeout_to_fail.unwrap_or_default();
                    round.refusal = Some(format!("timeout after {} s", limit.as_secs_f64()));
                } else {
                    self.begin_actions(&mut round);
                }
            }
            let Some((step, answer)) = self.held.while_mine(round.in_flight.next()).await? else { break };
            round.running.remove(&step);
            self.note_action(&mut round, step, answer);
            tokio::task::yield_now().await;
        }
        Some(match round.refusal {
            Some(reason) => End::Refused(reason),
            None if self.progress.succeeded.len() == self.saga.steps.len() => End::Done,
            None if self.held.is_stopping() => End::Pause(Duration::ZERO),
            None => End::Pause(self.pause(round.has_failed).min(self.time_left())),
        })
    }

    fn begin_actions(&mut self, round: &mut Round<'a>) {
        loop {
            let ready: Vec<_> = (0..self.saga.steps.len()).filter(|step| self.is_ready(round, *step)).collect();
            let mut has_new = false;
            for step in ready {
                self.progress.begun.insert(step);
                match self.saga.steps[step].action.is_empty() {
                    true => has_new |= self.progress.succeeded.insert(step),
                    false => self.call(round, step, Op::Action),
                }
            }
            // What was empty may have been waited for.
            if !has_new {
                return;
            }
        }
    }

    fn is_ready(&self, round: &Round<'_>, step: usize) -> bool {
        let succeeded = &self.progress.succeeded;
        if succeeded.contains(&step) || round.running.contains(&step) || round.waiting.contains(&step) {
            return false;
        }
        match self.saga.options.is_concurrent {
            true => self.befores(step).iter().all(|before| succeeded.contains(before)),
            false => (0..step).all(|before| succeeded.contains(&before)),
        }
    }

    fn note_action(&mut self, round: &mut Round<'_>, step: usize, answer: Result<BranchAnswer>) {
        let url = &*shown_url(&self.saga.steps[step].action);
        let trouble = match &answer {
            Ok(BranchAnswer::Succeeded) => {
                self.progress.succeeded.insert(step);
                self.progress.failure_count = 0;
                return;
            }
            Ok(BranchAnswer::Failed(reason)) => {
                round.refusal.get_or_insert_with(|| cut(format!("{url} refused: {reason}")));
                return;
            }
            Ok(BranchAnswer::Ongoing) => "it is still ongoing".to_owned(),
            Err(error) => {
                let report = error.report();
                tracing::debug!(step, url, error = report, "an action is to be called again");
                self.trouble = Some(cut(format!("{url}: {report}")));
                report
            }
        };
        match self.saga.options.retry_count_max {
            None => {
                round.has_failed |= answer.is_err();
                round.waiting.insert(step);
            }
            // Called again at once.
            Some(limit) if self.retry_count < limit => self.retry_count += 1,
            Some(limit) => {
                round.refusal.get_or_insert_with(|| cut(format!("{url} after {limit} retries: {trouble}")));
            }
        }
    }

    async fn go_back(&mut self) -> Option<End> {
        let mut round = Round::default();
        loop {
            if !self.held.is_stopping() {
                self.begin_compensations(&mut round);
            }
            let Some((step, answer)) = self.held.while_mine(round.in_flight.next()).await? else { break };
            round.running.remove(&step);
            self.note_compensation(&mut round, step, answer);
        }
        let is_undone = self.to_undo().next().is_none();
        Some(match is_undone {
            true => End::Done,
            false if self.held.is_stopping() => End::Pause(Duration::ZERO),
            false => End::Pause(self.pause(round.has_failed)),
        })
    }

    fn begin_compensations(&mut self, round: &mut Round<'a>) {
        let left: BTreeSet<usize> = self.to_undo().collect();
        for step in left.iter().copied() {
            if round.running.contains(&step) || round.waiting.contains(&step) {
                continue;
            }
            // What came after it is undone before it.
            let is_ready = match self.saga.options.is_concurrent {
                true => !left.iter().any(|after| self.befores(*after).contains(&step)),
                false => left.last() == Some(&step),
            };
            if is_ready {
                self.call(round, step, Op::Compensate);
            }
        }
    }

    fn note_compensation(&mut self, round: &mut Round<'_>, step: usize, answer: Result<BranchAnswer>) {
        let url = &*shown_url(&self.saga.steps[step].compensation);
        match answer {
            Ok(BranchAnswer::Succeeded) => {
                self.progress.compensated.insert(step);
                self.progress.failure_count = 0;
                return;
            }
            Ok(BranchAnswer::Ongoing) => {}
            Ok(BranchAnswer::Failed(reason)) => {
                round.has_failed = true;
                if self.progress.refused.insert(step) {
                    let told = "a compensation was refused, which it must not be: it is called again until it succeeds";
                    tracing::warn!(step, url, reason, "{told}");
                }
            }
            Err(error) => {
                round.has_failed = true;
                let report = error.report();
                tracing::debug!(step, url, error = report, "a compensation is to be called again");
                self.trouble = Some(cut(format!("{url}: {report}")));
            }
        }
        round.waiting.insert(step);
    }

    /// The steps whose compensation is still to be called: also where the action was refused, or may not
    /// have come about.
    fn to_undo(&self) -> impl Iterator<Item = usize> {
        let is_left = |step: &usize| {
            let has_undoing = self.saga.steps.get(*step).is_some_and(|step| !step.compensation.is_empty());
            has_undoing && !self.progress.compensated.contains(step)
        };
        self.progress.begun.iter().copied().filter(is_left)
    }

    /// What a step waits for, where steps are concurrent.
    fn befores(&self, step: usize) -> &[usize] {
        self.saga.options.orders.get(&step).map_or(&[], Vec::as_slice)
    }

    fn call(&self, round: &mut Round<'a>, step: usize, op: Op) {
        round.running.insert(step);
        let (saga, caller, config) = (self.saga, self.caller, self.config);
        let call = async move {
            let branch = branch(saga, step, op)?;
            let request = request(saga, step, &branch, config);
            let (url, timeout) = (request.url, request.timeout);
            let answer = unwound("saga.call", caller.call(request));
            // A caller that does not keep the limit must not keep the saga.
            tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::DeadlineExceeded, "saga.call", "the branch gave no answer in time")
                    .with_context("url", shown_url(url))
                    .with_context("request_timeout_ms", timeout.as_millis()))
            })
        };
        round.in_flight.push(call.map(move |answer| (step, answer)).boxed());
    }

    /// The pause before what waits is called again.
    fn pause(&mut self, has_failed: bool) -> Duration {
        let interval = self.saga.options.retry_interval.unwrap_or(self.config.retry_interval);
        if !has_failed {
            return interval;
        }
        self.progress.failure_count = self.progress.failure_count.saturating_add(1);
        if self.progress.failure_count.is_power_of_two() {
            let (count, trouble) = (self.progress.failure_count, self.trouble.as_deref().unwrap_or_default());
            let told = "a saga does not get on, and is tried again";
            tracing::warn!(gid = self.saga.gid, count, trouble, "{told}");
        }
        backoff(self.progress.failure_count, interval, self.config.retry_interval_max.max(interval))
    }

    fn is_overdue(&self) -> bool {
        self.progress.succeeded.len() < self.saga.steps.len() && self.time_left().is_zero()
    }

    fn time_left(&self) -> Duration {
        let limit = self.saga.options.timeout_to_fail.unwrap_or(Duration::MAX);
        limit.saturating_sub(self.held.age())
    }
}

fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}
