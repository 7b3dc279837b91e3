//! `grpc.health.v1`, answered from the application's own health.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use futures_util::{StreamExt as _, stream::BoxStream};
use micro_core::{Health, HealthStatus};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server};

/// Serving while every part is, be it degraded, and the server is not draining; asked by name, for the services it
/// has and for "", the server as a whole. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct HealthService {
    services: Arc<Vec<&'static str>>,
    health: Arc<OnceLock<Health>>,
    is_withdrawn: watch::Sender<bool>,
}

impl HealthService {
    pub(crate) fn new() -> Self {
        Self { services: Arc::default(), health: Arc::default(), is_withdrawn: watch::Sender::new(false) }
    }

    pub(crate) fn add_service_name(&mut self, name: &'static str) {
        Arc::make_mut(&mut self.services).push(name);
    }

    /// Answers from `health` from now on; the first one stays.
    pub(crate) fn feed(&self, health: Health) {
        self.health.get_or_init(|| health);
    }

    /// Not serving from now on.
    pub(crate) fn withdraw(&self) {
        self.is_withdrawn.send_replace(true);
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }

    fn answer(&self) -> HealthCheckResponse {
        let is_serving = !*self.is_withdrawn.borrow() && self.health.get().is_some_and(Health::is_serving);
        let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        HealthCheckResponse { status: status.into() }
    }
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !self.knows(&service) {
            return Err(Status::not_found(format!("health.check: no such service here (service={service})")));
        }
        Ok(Response::new(self.answer()))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !self.knows(&request.into_inner().service) {
            // The protocol's answer to a watch of an unknown service, which may come to be.
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            let stream = futures_util::stream::iter([Ok(unknown)]).chain(futures_util::stream::pending());
            return Ok(Response::new(stream.boxed()));
        }
        let health = self.health.get().ok_or_else(|| Status::unavailable("health.watch: the server is not started"))?;
        let watching = Watching {
            parts: health.watch(),
            withdrawal: self.is_withdrawn.subscribe(),
            service: self.clone(),
            last: None,
            is_last: false,
        };
        let answers = futures_util::stream::unfold(watching, Watching::next);
        Ok(Response::new(answers.boxed()))
    }
}

struct Watching {
    parts: watch::Receiver<BTreeMap<String, HealthStatus>>,
    withdrawal: watch::Receiver<bool>,
    service: HealthService,
    last: Option<i32>,
    is_last: bool,
}

impl Watching {
    /// The next answer that differs. It ends when the server drains, which an endless call would
    /// keep from ending.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        while !self.is_last {
            self.parts.mark_unchanged();
            self.is_last = *self.withdrawal.borrow_and_update();
            let answer = self.service.answer();
            if self.last.replace(answer.status) != Some(answer.status) {
                return Some((Ok(answer), self));
            }
            if self.is_last {
                break;
            }
            tokio::select! {
                changed = self.parts.changed() => changed.ok()?,
                changed = self.withdrawal.changed() => changed.ok()?,
            }
        }
        None
    }
}
