//! DTM's gRPC API, `dtmgimp.Dtm`: our messages in, our messages out, as bytes between.

use std::time::Duration;

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use micro_core::{Error, ErrorKind, Metadata};
use micro_grpc::{RawFailure, RawGrpcClient};
use prost::Message;

use super::{
    DtmConfig,
    api::{Answer, Api, BranchRegistration, TopicVerb, Verb, WorkflowProgress, WorkflowStep},
    error::{Code, Failed, Refusal, unanswered, unreadable},
    global::GlobalTransaction,
    limits::REQUEST_BYTES_MAX,
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
        check_length(message).map_err(Failed::Unanswered)?;
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

/// # Errors
///
/// `InvalidArgument` for a request that DTM's server refuses each time.
fn check_length(message: &impl Message) -> micro_core::Result<()> {
    let length = message.encoded_len();
    if length <= REQUEST_BYTES_MAX {
        return Ok(());
    }
    let text = "with its names and URLs this is more than a request to DTM may be";
    let error = Error::new(ErrorKind::InvalidArgument, "dtm.call", text);
    Err(error.with_context("request_bytes", length).with_context("request_bytes_max", REQUEST_BYTES_MAX))
}

#[async_trait]
impl Api for GrpcApi {
    fn address(&self) -> &str {
        &self.address
    }

    fn check(&self, transaction: &GlobalTransaction) -> micro_core::Result<()> {
        check_length(&transaction.to_request()?).map_err(|error| error.with_context("gid", &transaction.gid))
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

#[cfg(test)]
mod tests {
    use micro_core::{branch::Mode, saga::Step};

    use super::*;

    fn saga(payload_bytes: usize) -> GlobalTransaction {
        let mut saga = GlobalTransaction::new(Mode::Saga, "g");
        saga.steps.push(Step::new("h:1/a.B/C").payload(vec![0; payload_bytes]));
        saga
    }

    /// grpc-go measures the whole message.
    #[tokio::test]
    async fn a_request_is_at_most_as_long_as_dtms_server_takes_it_and_a_longer_one_is_not_sent() {
        // Nobody listens there: what is sent is Unavailable.
        let config = DtmConfig::default();
        let api = GrpcApi::new(RawGrpcClient::default(), "127.0.0.1:1".to_owned(), &config);
        let frame = saga(REQUEST_BYTES_MAX).to_request().unwrap().encoded_len() - REQUEST_BYTES_MAX;
        let (fits, over) = (saga(REQUEST_BYTES_MAX - frame), saga(REQUEST_BYTES_MAX - frame + 1));
        api.check(&fits).unwrap();
        let timeout = config.request_timeout;
        let kind = |answer: Answer<()>| answer.unwrap_err().into_error("dtm.submit").kind();
        assert_eq!(kind(api.send(Verb::Submit, &fits, timeout).await), ErrorKind::Unavailable);
        for over in [over, saga(REQUEST_BYTES_MAX)] {
            let error = api.check(&over).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains("gid=g") && error.to_string().contains("4194304"), "{error}");
            assert_eq!(kind(api.send(Verb::Submit, &over, timeout).await), ErrorKind::InvalidArgument);
            assert_eq!(kind(api.prepare_workflow(&over).await.map(drop)), ErrorKind::InvalidArgument);
        }
        let branch = BranchRegistration::new(Mode::Tcc, "g", "01").payload(vec![0; REQUEST_BYTES_MAX]);
        assert_eq!(kind(api.register(&branch).await), ErrorKind::InvalidArgument);
    }
}
