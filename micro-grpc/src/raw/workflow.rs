//! The service by which DTM has a workflow of this process go on.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request as HttpRequest, Response as HttpResponse};
use micro_core::branch::{Branch, BranchError};
use prost::Message;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
};
use tower::Service;

use super::codec::RawCodec;
use crate::BranchCall;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Resume = dyn Fn(Branch, Bytes) -> Boxed<Result<(), BranchError>> + Send + Sync;

/// The gRPC service `workflow.Workflow`, which DTM calls to have a workflow go on that did not come to its
/// end: its name is the branch's operation, the message is the workflow's data.
///
/// Source: DTM 1.19, `client/workflow/wfpb/wf.proto`.
#[derive(Clone)]
pub struct WorkflowService {
    resume: Arc<Resume>,
}

impl WorkflowService {
    /// A service that has `resume` run the workflow. The call, and its future, may be given up after 3 s:
    /// what must go on belongs into a task.
    pub fn new<F>(resume: impl Fn(Branch, Bytes) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), BranchError>> + Send + 'static,
    {
        Self { resume: Arc::new(move |branch, data| Box::pin(resume(branch, data))) }
    }
}

impl fmt::Debug for WorkflowService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkflowService").finish_non_exhaustive()
    }
}

impl NamedService for WorkflowService {
    const NAME: &'static str = "workflow.Workflow";
}

impl Service<HttpRequest<Body>> for WorkflowService {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let execute = Execute { resume: self.resume.clone() };
        let is_known = request.uri().path() == "/workflow.Workflow/Execute";
        Box::pin(async move {
            if is_known {
                return Ok(Grpc::new(RawCodec).unary(execute, request).await);
            }
            Ok(Status::unimplemented("workflow.Workflow has one method, Execute").into_http())
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct WorkflowData {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

struct Execute {
    resume: Arc<Resume>,
}

impl UnaryService<Bytes> for Execute {
    type Response = Bytes;
    type Future = Boxed<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let resume = self.resume.clone();
        Box::pin(async move {
            let call = BranchCall::of(&request)?;
            let Some(branch) = call.branch().cloned() else {
                return Err(Status::invalid_argument("only DTM has a workflow go on: metadata dtm-gid is missing"));
            };
            let message = WorkflowData::decode(request.into_inner())
                .map_err(|error| Status::invalid_argument(format!("no workflow.WorkflowData: {error}")))?;
            call.answer(resume(branch, message.data).await.map(|()| Bytes::new()))
        })
    }
}
