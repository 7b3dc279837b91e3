//! The messages of `dtmgimp.Dtm`, of which only the numbers count on the wire.
//!
//! Source: DTM 1.19, `client/dtmgrpc/dtmgpb/dtmgimp.proto`.

use std::collections::BTreeMap;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DtmTransOptions {
    #[prost(bool, tag = "1")]
    pub(crate) wait_result: bool,
    #[prost(int64, tag = "2")]
    pub(crate) timeout_to_fail: i64,
    #[prost(int64, tag = "3")]
    pub(crate) retry_interval: i64,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(crate) branch_headers: BTreeMap<String, String>,
    #[prost(int64, tag = "6")]
    pub(crate) request_timeout: i64,
    #[prost(int64, tag = "7")]
    pub(crate) retry_limit: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DtmRequest {
    #[prost(string, tag = "1")]
    pub(crate) gid: String,
    #[prost(string, tag = "2")]
    pub(crate) trans_type: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) trans_options: Option<DtmTransOptions>,
    #[prost(string, tag = "4")]
    pub(crate) customed_data: String,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(crate) bin_payloads: Vec<bytes::Bytes>,
    #[prost(string, tag = "6")]
    pub(crate) query_prepared: String,
    /// JSON.
    #[prost(string, tag = "7")]
    pub(crate) steps: String,
    #[prost(btree_map = "string, string", tag = "8")]
    pub(crate) req_extra: BTreeMap<String, String>,
    #[prost(string, tag = "9")]
    pub(crate) rollback_reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DtmGidReply {
    #[prost(string, tag = "1")]
    pub(crate) gid: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DtmBranchRequest {
    #[prost(string, tag = "1")]
    pub(crate) gid: String,
    #[prost(string, tag = "2")]
    pub(crate) trans_type: String,
    #[prost(string, tag = "3")]
    pub(crate) branch_id: String,
    #[prost(string, tag = "4")]
    pub(crate) op: String,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(crate) data: BTreeMap<String, String>,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) busi_payload: bytes::Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DtmProgressesReply {
    #[prost(message, optional, tag = "1")]
    pub(crate) transaction: Option<DtmTransaction>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) progresses: Vec<DtmProgress>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DtmTransaction {
    #[prost(string, tag = "1")]
    pub(crate) gid: String,
    #[prost(string, tag = "2")]
    pub(crate) status: String,
    #[prost(string, tag = "3")]
    pub(crate) rollback_reason: String,
    /// Base64; never filled by 1.19.
    #[prost(string, tag = "4")]
    pub(crate) result: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DtmProgress {
    #[prost(string, tag = "1")]
    pub(crate) status: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) bin_data: bytes::Bytes,
    #[prost(string, tag = "3")]
    pub(crate) branch_id: String,
    #[prost(string, tag = "4")]
    pub(crate) op: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DtmTopicRequest {
    #[prost(string, tag = "1")]
    pub(crate) topic: String,
    #[prost(string, tag = "2")]
    pub(crate) url: String,
    #[prost(string, tag = "3")]
    pub(crate) remark: String,
}
