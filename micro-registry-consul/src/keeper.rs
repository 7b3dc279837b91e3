//! Keeps one registered instance alive: heartbeats, and registering again what the agent lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use micro_core::{
    Error, ErrorKind, Result,
    registry::{Instance, Outage, RegisterOptions},
};
use tokio::{sync::Mutex, task::AbortHandle, time::sleep};

use crate::{
    CheckKind,
    client::{Client, optional},
    encoding::{Service, ServiceRegistration, check_id, whole_instance},
};

const OPERATION: &str = "registry.heartbeat";

/// Who keeps which id in this process. Whoever changes what the agent knows of an instance holds the
/// lock, so that nobody registers again what another one just replaced or withdrew.
pub(crate) type Keepers = Arc<Mutex<HashMap<String, Kept>>>;

/// One registration of an id; a later one of the same id has another generation.
pub(crate) struct Kept {
    pub(crate) service: String,
    pub(crate) generation: u64,
    pub(crate) task: AbortHandle,
}

/// One registration's task.
pub(crate) struct Keeper {
    pub(crate) client: Client,
    pub(crate) keepers: Keepers,
    pub(crate) generation: u64,
    pub(crate) instance: Instance,
    pub(crate) options: RegisterOptions,
}

impl Keeper {
    /// Runs until it is aborted.
    pub(crate) async fn run(self) {
        let interval = self.interval();
        let mut outage = Outage::new("Consul", "heartbeat", &self.instance.id, interval);
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
        let noticed = self.options.ttl.mul_f64(0.45);
        if self.is_ttl() { self.options.heartbeat.min(noticed) } else { noticed }
    }

    fn is_ttl(&self) -> bool {
        self.client.config.check == CheckKind::Ttl
    }

    async fn beat(&self, interval: Duration) -> Result<()> {
        if self.is_ttl() {
            let path = ["agent", "check", "pass", &check_id(&self.instance.id)];
            let limit = interval.min(self.client.config.request_timeout);
            match self.client.put(OPERATION, &path, None::<&()>, limit).await {
                // An agent that does not know the check answers 500 up to 1.10 and 404 since.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) => {}
                outcome => return outcome,
            }
        } else if self.is_known().await? {
            return Ok(());
        }
        self.restore().await
    }

    async fn restore(&self) -> Result<()> {
        let keepers = self.keepers.lock().await;
        let is_current = keepers.get(&self.instance.id).is_some_and(|kept| kept.generation == self.generation);
        if !is_current {
            return Ok(());
        }
        self.is_known().await?;
        announce(&self.client, OPERATION, &self.instance, &self.options).await?;
        tracing::info!(instance = self.instance.id, "the Consul agent had lost the instance, registered it again");
        Ok(())
    }

    async fn is_known(&self) -> Result<bool> {
        let Some(service) = registered(&self.client, OPERATION, &self.instance.id).await? else { return Ok(false) };
        if whole_instance(service).as_ref() == Some(&self.instance) {
            return Ok(true);
        }
        let message = "another process has registered this id: give each instance an id of its own";
        Err(Error::new(ErrorKind::AlreadyExists, OPERATION, message)
            .with_context("service", &self.instance.service)
            .with_context("id", &self.instance.id))
    }
}

/// Registers the instance with the agent, or replaces what it knows of it.
pub(crate) async fn announce(
    client: &Client,
    operation: &'static str,
    instance: &Instance,
    options: &RegisterOptions,
) -> Result<()> {
    let body = ServiceRegistration::new(instance, options, &client.config);
    client.put(operation, &["agent", "service", "register"], Some(&body), client.config.request_timeout).await
}

/// Withdraws what the agent knows by this id, if it is what the caller means.
pub(crate) async fn withdraw(client: &Client, id: &str, is_meant: impl FnOnce(Service) -> bool) -> Result<()> {
    let operation = "registry.deregister";
    let service = registered(client, operation, id).await?;
    if !service.is_some_and(is_meant) {
        return Ok(());
    }
    let path = ["agent", "service", "deregister", id];
    optional(client.put(operation, &path, None::<&()>, client.config.request_timeout).await).map(drop)
}

/// What the agent knows by this id.
async fn registered(client: &Client, operation: &'static str, id: &str) -> Result<Option<Service>> {
    let answer = optional(client.get(operation, &["agent", "service", id], &[]).await)?;
    answer.map(|answer| answer.json(operation)).transpose()
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}
