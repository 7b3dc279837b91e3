//! The client of DTM beside the real server: the numbered cases of DTM's own tests that a client should
//! pass, and our own.

mod accounts;
mod added;
mod barriers;
mod base;
mod branches;
mod go_branch;
mod json_rpc;
mod local;
mod msg;
mod relay;
mod restarts;
mod saga;
mod stage;
mod tcc;
mod tellers;
mod topics;
mod unreachable;
mod vectors;
mod vectors_runs;
mod workflow;
mod workflow_fit;
mod workflow_xa;
mod xa;
