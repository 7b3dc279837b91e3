//! Keeps one registered instance alive: its lease, and registering again what etcd lost.

use std::time::Duration;

use micro_core::{
    Error, ErrorKind, Result,
    registry::{Instance, Outage, RegisterOptions},
};
use tokio::time::sleep;

use crate::{
    client::{Client, Held},
    places::{Claim, Places},
};

const OPERATION: &str = "registry.heartbeat";

/// One registration's task.
pub(crate) struct Keeper {
    pub(crate) client: Client,
    pub(crate) places: Places,
    pub(crate) generation: u64,
    pub(crate) instance: Instance,
    pub(crate) options: RegisterOptions,
}

impl Keeper {
    /// Runs until it is aborted, or another registration has its place.
    pub(crate) async fn run(self) {
        let interval = self.interval();
        let mut outage = Outage::new("etcd", "heartbeat", &self.instance.id, interval);
        let mut pause = jittered(interval);
        loop {
            sleep(pause).await;
            pause = match self.beat(interval).await {
                Ok(()) => {
                    outage.ended();
                    jittered(interval)
                }
                Err(error) => outage.failed(&error),
            };
        }
    }

    /// With its jitter it stays below half of the TTL: so soon a lost state is noticed.
    fn interval(&self) -> Duration {
        self.options.heartbeat.min(self.options.ttl.mul_f64(0.45))
    }

    /// A lease that is kept says nothing of the key, which somebody may have deleted: both are looked at.
    async fn beat(&self, interval: Duration) -> Result<()> {
        let Some(claim) = self.claim().await else { return Ok(()) };
        let limit = interval.max(Duration::from_secs(1)).min(self.client.config.request_timeout);
        match self.client.keep_alive(OPERATION, claim.lease, limit).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return self.restore().await,
            Err(error) => return Err(error),
        }
        match self.client.held(OPERATION, &claim.key).await? {
            Some(held) if held.lease == claim.lease => Ok(()),
            _ => self.restore().await,
        }
    }

    async fn claim(&self) -> Option<Claim> {
        let mut place = self.places.of(&self.instance).await;
        place.of_generation(self.generation).map(|kept| kept.claim.clone())
    }

    async fn restore(&self) -> Result<()> {
        let mut place = self.places.of(&self.instance).await;
        let Some(kept) = place.of_generation(self.generation) else { return Ok(()) };
        let held = self.client.held(OPERATION, &kept.claim.key).await?;
        if held.is_some_and(|held| held.value != self.client.config.value(&self.instance)) {
            let message = "another process has registered this id: give each instance an id of its own";
            return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, message)
                .with_context("service", &self.instance.service)
                .with_context("id", &self.instance.id));
        }
        let before = kept.claim.clone();
        kept.claim = announce(&self.client, OPERATION, &self.instance, &self.options).await?;
        tracing::info!(instance = self.instance.id, "etcd had lost the instance, registered it again");
        if before.lease != kept.claim.lease {
            give_up(&self.client, &before).await;
        }
        Ok(())
    }
}

/// Registers the instance, or replaces what etcd has of it. What it has already, kept by a lease of the
/// same TTL, is taken over: a process that was restarted goes on where it ended.
pub(crate) async fn announce(
    client: &Client,
    operation: &'static str,
    instance: &Instance,
    options: &RegisterOptions,
) -> Result<Claim> {
    let value = client.config.value(instance);
    let ttl_seconds = whole_seconds(options.ttl);
    let known = client.config.key_of_id(&instance.service, &instance.id);
    if let Some(held) = client.held(operation, &known).await?.filter(|held| held.value == value)
        && let Some(lease) = adopted(client, operation, &held, ttl_seconds).await?
    {
        return Ok(Claim { key: known, lease, is_adopted: true });
    }
    let lease = client.grant(operation, ttl_seconds).await?;
    let key = client.config.key(&instance.service, &instance.id, lease);
    let claim = Claim { key, lease, is_adopted: false };
    if let Err(error) = client.put(operation, &claim.key, &value, lease).await {
        give_up(client, &claim).await;
        return Err(error);
    }
    Ok(claim)
}

async fn adopted(client: &Client, operation: &'static str, held: &Held, ttl_seconds: i64) -> Result<Option<i64>> {
    if held.lease == 0 || client.granted_ttl(operation, held.lease).await? != Some(ttl_seconds) {
        return Ok(None);
    }
    match client.keep_alive(operation, held.lease, client.config.request_timeout).await {
        Ok(()) => Ok(Some(held.lease)),
        // It ended a moment ago.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ends the lease that nothing needs any more, or leaves it to its TTL.
pub(crate) async fn give_up(client: &Client, claim: &Claim) {
    if claim.is_adopted {
        return;
    }
    if let Err(error) = client.revoke(OPERATION, claim.lease).await {
        tracing::debug!(key = claim.key, error = %error.report(), "a lease is left to its end");
    }
}

/// etcd counts in seconds; a TTL is never shorter than it was asked for.
fn whole_seconds(ttl: Duration) -> i64 {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_has_whole_seconds_and_is_not_shorter_than_asked_for() {
        for (ttl, seconds) in [(1, 1), (999, 1), (1000, 1), (1001, 2), (15_000, 15)] {
            assert_eq!(whole_seconds(Duration::from_millis(ttl)), seconds);
        }
        assert_eq!(whole_seconds(Duration::MAX), i64::MAX);
    }
}
