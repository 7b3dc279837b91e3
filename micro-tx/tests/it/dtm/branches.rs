//! Participants that answer as a test tells them: one server of gRPC, one of HTTP, which remember how
//! they were called.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::{
    extract::{Request as HttpRequest, State},
    http::StatusCode,
    response::{IntoResponse, Response as HttpResponse},
};
use micro_core::{
    Error, ErrorKind, Health,
    app::Component as _,
    branch::{Branch, BranchError, HttpAnswer, JsonRpcCall},
};
use micro_grpc::{BranchCall, GrpcServer};
use tokio::{net::TcpListener, sync::Semaphore};
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// Where branches are called in JSON-RPC.
pub(crate) const JSON_RPC_PATH: &str = "/api/json-rpc";

/// What a branch answers.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    Done,
    Failure(String),
    Ongoing,
    /// Something that is none of the three.
    Oops,
    /// Done, in these words; over gRPC without words.
    Text(String),
    /// What is to be done, with an answer so much later.
    Late(Duration),
    /// What is to be done, with an answer when the test closes this [`gate`].
    Held(Arc<Semaphore>),
}

impl Say {
    /// Waits until it may be answered.
    async fn wait(&self) {
        match self {
            Self::Late(pause) => tokio::time::sleep(*pause).await,
            Self::Held(gate) => drop(gate.acquire().await),
            _ => {}
        }
    }
}

/// Holds up whoever comes until it is closed.
pub(crate) fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

/// A call as a branch saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) branch: Branch,
    pub(crate) method: String,
    pub(crate) payload: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) at: Instant,
}

impl Seen {
    /// `01/action`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.branch.id, self.branch.op)
    }
}

type Script = Arc<Mutex<HashMap<(String, String), Vec<Say>>>>;

/// What is done by a call of which a test said nothing.
#[async_trait]
pub(crate) trait Business: Send + Sync + 'static {
    async fn call(&self, seen: &Seen) -> Result<(), BranchError>;
}

/// By the end of the method's name.
type Works = Vec<(String, Arc<dyn Business>)>;

/// The two servers. Calls of which a test said nothing are done.
pub(crate) struct Branches {
    pub(crate) grpc: String,
    pub(crate) http: String,
    memory: Memory,
    _server: GrpcServer,
    _health: Health,
}

#[derive(Clone, Default)]
struct Memory {
    script: Script,
    seen: Arc<Mutex<Vec<Seen>>>,
    business: Arc<Mutex<Works>>,
}

impl Branches {
    pub(crate) async fn serve() -> Self {
        let memory = Memory::default();
        let server = GrpcServer::builder("busi").add_service(Busi(memory.clone())).build().unwrap();
        let health = Health::new();
        server.start(&health).await.unwrap();
        let grpc = server.instances().remove(0).address;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap().to_string();
        let router = axum::Router::new().fallback(over_http).with_state(memory.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { grpc, http, memory, _server: server, _health: health }
    }

    /// Has this done by calls of which a test said nothing, where the method's name ends so.
    pub(crate) fn work(&self, method: &str, business: Arc<dyn Business>) {
        self.memory.business.lock().unwrap().push((method.to_owned(), business));
    }

    /// What a branch of a transaction answers, call by call; afterwards it is done.
    pub(crate) fn script(&self, gid: &str, name: &str, says: impl IntoIterator<Item = Say>) {
        let mut says: Vec<Say> = says.into_iter().collect();
        says.reverse();
        self.memory.script.lock().unwrap().insert((gid.to_owned(), name.to_owned()), says);
    }

    /// The calls that a transaction made, in the order in which they came.
    pub(crate) fn seen(&self, gid: &str) -> Vec<Seen> {
        self.memory.seen.lock().unwrap().iter().filter(|seen| seen.branch.gid == gid).cloned().collect()
    }

    /// Their names: `01/action`.
    pub(crate) fn calls(&self, gid: &str) -> Vec<String> {
        self.seen(gid).iter().map(Seen::name).collect()
    }
}

impl Memory {
    fn say(&self, seen: Seen) -> Say {
        let key = (seen.branch.gid.clone(), seen.name());
        self.seen.lock().unwrap().push(seen);
        self.script.lock().unwrap().get_mut(&key).and_then(Vec::pop).unwrap_or(Say::Done)
    }

    async fn work(&self, seen: &Seen) -> Result<(), BranchError> {
        let work = self.business.lock().unwrap().clone();
        match work.into_iter().find(|(method, _)| seen.method.ends_with(method)) {
            Some((_, business)) => business.call(seen).await,
            None => Ok(()),
        }
    }
}

async fn over_http(State(memory): State<Memory>, request: HttpRequest) -> HttpResponse {
    if request.uri().path() == JSON_RPC_PATH {
        return over_json_rpc(memory, request).await;
    }
    let method = format!("{} {}", request.method(), request.uri().path());
    let url = reqwest::Url::parse(&format!("http://h{}", request.uri())).unwrap();
    let parts: HashMap<String, String> = url.query_pairs().into_owned().collect();
    let branch = Branch::read(|name| parts.get(name).cloned()).unwrap().unwrap();
    let headers = text_headers(request.headers());
    let payload = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let payload = String::from_utf8(payload.to_vec()).unwrap();
    let seen = Seen { branch, method, payload, headers, at: Instant::now() };
    let say = memory.say(seen.clone());
    match say {
        Say::Done | Say::Late(_) | Say::Held(_) => {
            let answer = HttpAnswer::of(&seen.method, Some(&seen.branch), memory.work(&seen).await);
            say.wait().await;
            (StatusCode::from_u16(answer.status).unwrap(), answer.body).into_response()
        }
        Say::Failure(text) => (StatusCode::CONFLICT, text).into_response(),
        Say::Ongoing => (StatusCode::TOO_EARLY, "").into_response(),
        Say::Oops => (StatusCode::INTERNAL_SERVER_ERROR, "oops").into_response(),
        Say::Text(text) => text.into_response(),
    }
}

#[derive(serde::Deserialize)]
struct Named {
    name: String,
}

async fn over_json_rpc(memory: Memory, request: HttpRequest) -> HttpResponse {
    let headers = text_headers(request.headers());
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let call = JsonRpcCall::read(&body).unwrap();
    let (method, branch) = (call.method().to_owned(), call.branch().unwrap().clone());
    let payload = call.params::<Named>().unwrap().name;
    let seen = Seen { branch, method, payload, headers, at: Instant::now() };
    let say = memory.say(seen.clone());
    let outcome = match say {
        Say::Done | Say::Late(_) | Say::Held(_) => {
            let done = memory.work(&seen).await;
            say.wait().await;
            done
        }
        Say::Failure(text) => Err(BranchError::failed(text)),
        Say::Ongoing => Err(BranchError::Ongoing),
        Say::Oops => Err(Error::new(ErrorKind::Internal, "branch", "oops").into()),
        Say::Text(text) => return text.into_response(),
    };
    let answer = call.answer(outcome);
    (StatusCode::from_u16(answer.status).unwrap(), answer.body).into_response()
}

fn text_headers(headers: &http::HeaderMap) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned())).collect()
}

/// `busi.Busi`, with whatever method; the message is the first field's text.
#[derive(Clone)]
struct Busi(Memory);

impl NamedService for Busi {
    const NAME: &'static str = "busi.Busi";
}

impl Service<http::Request<Body>> for Busi {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Method { memory: self.0.clone(), path: request.uri().path().to_owned() };
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(method, request).await) })
    }
}

struct Method {
    memory: Memory,
    path: String,
}

impl UnaryService<String> for Method {
    type Response = ();
    type Future = Pin<Box<dyn Future<Output = Result<Response<()>, Status>> + Send>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let (memory, method) = (self.memory.clone(), self.path.clone());
        Box::pin(async move {
            let call = BranchCall::of(&request)?;
            let branch = call.branch().cloned().ok_or_else(|| Status::invalid_argument("no branch"))?;
            let headers = text_headers(&request.metadata().clone().into_headers());
            let payload = request.into_inner();
            let seen = Seen { branch, method, payload, headers, at: Instant::now() };
            let say = memory.say(seen.clone());
            match say {
                Say::Done | Say::Late(_) | Say::Held(_) => {
                    let done = memory.work(&seen).await;
                    say.wait().await;
                    call.answer(done)
                }
                Say::Text(_) => Ok(Response::new(())),
                Say::Failure(text) => Err(Status::aborted(text)),
                Say::Ongoing => Err(Status::failed_precondition("")),
                Say::Oops => Err(Status::internal("oops")),
            }
        })
    }
}
