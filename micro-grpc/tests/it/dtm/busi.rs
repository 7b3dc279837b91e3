//! A participant whose methods all answer what the test said last.

use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use micro_core::{
    branch::{Branch, BranchError},
    registry::MemoryRegistry,
};
use micro_grpc::{BranchCall, GoMicroConfig, GrpcServer};
use tonic::{Request, Response, Status};

use crate::{
    fixture::{Running, run},
    go_micro::protos::{
        DESCRIPTORS,
        busi::{
            BusiReply, BusiRequest,
            busi_server::{self, BusiServer},
        },
    },
};

type Outcome = Result<(), BranchError>;

#[derive(Clone, Default)]
pub(crate) struct Busi {
    /// `None`: it hangs.
    outcome: Arc<Mutex<Option<Outcome>>>,
    called: Arc<Mutex<Vec<Branch>>>,
    dropped_count: Arc<AtomicUsize>,
}

struct CountsDrop(Arc<AtomicUsize>);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Busi {
    /// Answers this once.
    pub(crate) fn answer(&self, outcome: Outcome) {
        *self.outcome.lock().unwrap() = Some(outcome);
    }

    pub(crate) fn hang(&self) {
        *self.outcome.lock().unwrap() = None;
    }

    /// The branch of the last call.
    pub(crate) fn called(&self) -> Branch {
        self.called_branches().pop().expect("a branch was called")
    }

    pub(crate) fn called_branches(&self) -> Vec<Branch> {
        mem::take(&mut *self.called.lock().unwrap())
    }

    pub(crate) fn dropped_count(&self) -> usize {
        self.dropped_count.load(Ordering::SeqCst)
    }

    async fn serve(&self, request: Request<BusiRequest>) -> Result<Response<BusiReply>, Status> {
        let call = BranchCall::of(&request)?;
        let _counts = CountsDrop(self.dropped_count.clone());
        self.called.lock().unwrap().extend(call.branch().cloned());
        let outcome = self.outcome.lock().unwrap().take();
        match outcome {
            Some(outcome) => call.answer(outcome.map(|()| BusiReply {})),
            None => std::future::pending().await,
        }
    }
}

macro_rules! methods {
    ($($method:ident)+) => {
        #[tonic::async_trait]
        impl busi_server::Busi for Busi {
            $(
                async fn $method(&self, request: Request<BusiRequest>) -> Result<Response<BusiReply>, Status> {
                    self.serve(request).await
                }
            )+
        }
    };
}

methods!(trans_out trans_out_revert trans_in trans_in_revert act comp xa_out xa_in);

pub(crate) async fn serve(go_micro: Option<GoMicroConfig>) -> (Busi, Running, String) {
    let busi = Busi::default();
    let mut builder = GrpcServer::builder("busi.Busi").add_service(BusiServer::new(busi.clone()));
    if let Some(config) = go_micro {
        builder = builder.descriptors(DESCRIPTORS.clone()).go_micro(config);
    }
    let running = run(builder.build().unwrap(), &MemoryRegistry::new()).await;
    let address = running.server.local_addr().unwrap().to_string();
    (busi, running, address)
}
