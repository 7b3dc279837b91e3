//! DTM's gRPC API, `dtmgimp.Dtm`: our messages in, our messages out, as bytes between.

use std::time::Duration;

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use micro_core::Metadata;
use micro_grpc::{RawFailure, RawGrpcClient};
use prost::Message;

use super::{
    DtmConfig,
    api::{Answer, Api, BranchRegistration, TopicVerb, Verb, WorkflowProgress, WorkflowStep},
    error::{Code, Failed, Refusal, unanswered, unreadable},
    global::GlobalTransaction,
    messages::{DtmBranchRequest, DtmGidReply, DtmProgressesReply, DtmTopicRequest},
};

pub(crate) struct GrpcApi {
    client: RawGrpcClient,
    address: String,
    request_timeout: Duration,
}

impl GrpcApi {
    pub(crate) fn new(client: RawGrpcClient, address: String, config: &DtmConfig) -> Self {
        Self { client, address, request_timeout: config.request_timeout }
    }

    async fn call(&self, method: &'static str, message: &impl Message, timeout: Duration) -> Answer<Bytes> {
        let path = format!("/dtmgimp.Dtm/{method}");
        let message = message.encode_to_vec().into();
        let answer = self.client.call(&self.address, &path, message, &Metadata::new(), timeout).await;
        answer.map_err(|failure| match failure {
            RawFailure::Answered(status) => Failed::Refused(Refusal {
                code: Code::Grpc(status.code() as i32),
                text: status.message().to_owned(),
                address: self.address.clone(),
            }),
            RawFailure::Unanswered(error) => Failed::Unanswered(unanswered("dtm.call", &self.address, error)),
        })
    }

    fn decode<M: Message + Default>(&self, answer: Bytes) -> Answer<M> {
        M::decode(answer).map_err(|cause| Failed::Unanswered(unreadable("dtm.call", &self.address, cause)))
    }
}

#[async_trait]
impl Api for GrpcApi {
    fn address(&self) -> &str {
        &self.address
    }

    fn check(&self, transaction: &GlobalTransaction) -> micro_core::Result<()> {
        transaction.to_request().map(drop)
    }

    async fn new_gid(&self) -> Answer<String> {
        let answer = self.call("NewGid", &(), self.request_timeout).await?;
        Ok(self.decode::<DtmGidReply>(answer)?.gid)
    }

    async fn send(&self, verb: Verb, transaction: &GlobalTransaction, timeout: Duration) -> Answer<()> {
        let method = match verb {
            Verb::Prepare => "Prepare",
            Verb::Submit => "Submit",
            Verb::Abort => "Abort",
        };
        let request = transaction.to_request().map_err(Failed::Unanswered)?;
        self.call(method, &request, timeout).await.map(drop)
    }

    async fn register(&self, branch: &BranchRegistration) -> Answer<()> {
        let request = DtmBranchRequest {
            gid: branch.gid.clone(),
            trans_type: branch.mode.as_str().to_owned(),
            branch_id: branch.branch_id.clone(),
            op: String::new(),
            data: branch.data.clone(),
            busi_payload: branch.payload.clone(),
        };
        self.call("RegisterBranch", &request, self.request_timeout).await.map(drop)
    }

    async fn prepare_workflow(&self, transaction: &GlobalTransaction) -> Answer<WorkflowProgress> {
        let request = transaction.to_request().map_err(Failed::Unanswered)?;
        let answer = self.call("PrepareWorkflow", &request, self.request_timeout).await?;
        let reply: DtmProgressesReply = self.decode(answer)?;
        let state = reply.transaction.unwrap_or_default();
        let result = BASE64_STANDARD.decode(&state.result);
        let result = result.map_err(|cause| Failed::Unanswered(unreadable("dtm.call", &self.address, cause)))?;
        let steps = reply.progresses.into_iter();
        let steps = steps.map(|step| WorkflowStep::new(step.branch_id, step.op, step.status, step.bin_data)).collect();
        let (status, rollback_reason) = (state.status, state.rollback_reason);
        Ok(WorkflowProgress { status, rollback_reason, result: result.into(), steps })
    }

    async fn topic(&self, verb: TopicVerb<'_>, topic: &str) -> Answer<()> {
        let (method, url, remark) = match verb {
            TopicVerb::Subscribe { url, remark } => ("Subscribe", url, remark),
            TopicVerb::Unsubscribe { url } => ("Unsubscribe", url, ""),
            TopicVerb::Delete => ("DeleteTopic", "", ""),
        };
        let request = DtmTopicRequest { topic: topic.to_owned(), url: url.to_owned(), remark: remark.to_owned() };
        self.call(method, &request, self.request_timeout).await.map(drop)
    }
}
