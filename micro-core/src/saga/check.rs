//! What a saga must be before anybody takes it.

use std::{collections::BTreeSet, time::Duration};

use super::Saga;
use crate::{Error, ErrorKind, Result, branch::GID_BYTES_MAX};

/// The most steps of a saga: a branch's id has two digits.
pub const STEP_COUNT_MAX: usize = 99;

/// The most bytes of a saga's URLs, payloads and headers together, where it is kept in a log: 4 MiB.
pub const SAGA_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Saga {
    /// Checks what every log and coordinator relies on.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, with the limit, for a global id that is empty, longer than [`GID_BYTES_MAX`]
    /// or has control characters; for more than [`STEP_COUNT_MAX`] steps or [`SAGA_BYTES_MAX`] bytes;
    /// for orders of steps that are not there or wait for each other; for options of zero, which would
    /// be "at once" to one coordinator and "the default" to another.
    pub fn check(&self) -> Result<()> {
        let refused = |message: &'static str| {
            Error::new(ErrorKind::InvalidArgument, "saga.check", message).with_context("gid", &self.gid)
        };
        match self.gid.len() {
            0 => return Err(refused("a saga needs a global id")),
            1..=GID_BYTES_MAX => {}
            length => {
                let message = "the global id is too long for a coordinator's store";
                return Err(Error::new(ErrorKind::InvalidArgument, "saga.check", message)
                    .with_context("gid_bytes", length)
                    .with_context("gid_bytes_max", GID_BYTES_MAX));
            }
        }
        if self.gid.contains(char::is_control) {
            return Err(refused("the global id has a control character"));
        }
        if self.steps.len() > STEP_COUNT_MAX {
            return Err(refused("the saga has too many steps")
                .with_context("step_count", self.steps.len())
                .with_context("step_count_max", STEP_COUNT_MAX));
        }
        let bytes = self.bytes();
        if bytes > SAGA_BYTES_MAX {
            return Err(refused("the saga is too large for a log")
                .with_context("bytes", bytes)
                .with_context("bytes_max", SAGA_BYTES_MAX));
        }
        self.check_zeros()?;
        self.check_orders()
    }

    fn check_zeros(&self) -> Result<()> {
        let options = &self.options;
        let is_zero = |duration: Option<Duration>| duration.is_some_and(|duration| duration.is_zero());
        let zeros = [
            ("timeout_to_fail", is_zero(options.timeout_to_fail)),
            ("retry_interval", is_zero(options.retry_interval)),
            ("request_timeout", is_zero(options.request_timeout)),
            ("retry_count_max", options.retry_count_max == Some(0)),
        ];
        match zeros.iter().find(|(_, is_zero)| *is_zero) {
            None => Ok(()),
            Some((name, _)) => {
                let message = "an option of a saga is zero: expected more, or None for the coordinator's default";
                Err(Error::new(ErrorKind::InvalidArgument, "saga.check", message)
                    .with_context("gid", &self.gid)
                    .with_context("option", name))
            }
        }
    }

    fn bytes(&self) -> usize {
        let steps = self.steps.iter().map(|step| step.action.len() + step.compensation.len() + step.payload.len());
        let headers = self.options.headers.iter().map(|(name, value)| name.len() + value.len());
        steps.chain(headers).sum()
    }

    fn check_orders(&self) -> Result<()> {
        let refused = |message: &'static str, step: usize| {
            Err(Error::new(ErrorKind::InvalidArgument, "saga.check", message)
                .with_context("gid", &self.gid)
                .with_context("step", step)
                .with_context("step_count", self.steps.len()))
        };
        let orders = &self.options.orders;
        if let Some(step) = orders.iter().flat_map(|(step, after)| after.iter().chain([step])).max()
            && *step >= self.steps.len()
        {
            return refused("the orders name a step that is not there: steps are counted from 0", *step);
        }
        let mut done = BTreeSet::new();
        loop {
            let waiting = |step: &usize| !done.contains(step);
            let is_ready = |step: &usize| orders.get(step).is_none_or(|after| !after.iter().any(waiting));
            let ready: Vec<_> = (0..self.steps.len()).filter(waiting).filter(is_ready).collect();
            match (ready.is_empty(), (0..self.steps.len()).find(waiting)) {
                (_, None) => return Ok(()),
                (true, Some(step)) => return refused("the orders make steps wait for each other", step),
                (false, Some(_)) => done.extend(ready),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::saga::{SagaOptions, Step};

    #[test]
    fn what_cannot_be_kept_or_done_is_refused_with_the_limit() {
        let ordered = |orders: &[(usize, &[usize])]| {
            let orders: BTreeMap<_, _> = orders.iter().map(|(step, after)| (*step, after.to_vec())).collect();
            let options = SagaOptions { is_concurrent: true, orders, ..SagaOptions::default() };
            Saga::with_gid("g").step(Step::new("a")).step(Step::new("b")).options(options)
        };
        let zero = |change: fn(&mut SagaOptions)| {
            let mut options = SagaOptions::default();
            change(&mut options);
            Saga::with_gid("g").options(options)
        };
        let many = (0..100).fold(Saga::with_gid("g"), |saga, _| saga.step(Step::new("")));
        for (saga, told) in [
            (Saga::with_gid(""), "needs a global id"),
            (Saga::with_gid("g".repeat(129)), "gid_bytes_max=128"),
            (Saga::with_gid("a\nb"), "control character"),
            (many, "step_count_max=99"),
            (Saga::with_gid("g").step(Step::new("a").payload(vec![0; SAGA_BYTES_MAX])), "bytes_max=4194304"),
            (ordered(&[(1, &[2])]), "step=2"),
            (ordered(&[(5, &[0])]), "step=5"),
            (ordered(&[(1, &[0]), (0, &[1])]), "wait for each other"),
            (ordered(&[(1, &[1])]), "wait for each other"),
            (zero(|options| options.timeout_to_fail = Some(Duration::ZERO)), "option=timeout_to_fail"),
            (zero(|options| options.retry_interval = Some(Duration::ZERO)), "option=retry_interval"),
            (zero(|options| options.request_timeout = Some(Duration::ZERO)), "option=request_timeout"),
            (zero(|options| options.retry_count_max = Some(0)), "option=retry_count_max"),
        ] {
            let error = saga.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(told), "{error}");
        }
        for saga in [Saga::new(), ordered(&[(1, &[0])]), ordered(&[])] {
            saga.check().unwrap();
        }
    }
}
