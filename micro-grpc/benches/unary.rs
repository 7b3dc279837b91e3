//! A unary call of 100 bytes each way over loopback: an `App` with a `GrpcServer`, found in a registry
//! and called by a `GrpcClient`, both with the stacks they have by default, against tonic alone.
//! Prints ratios within one run: the variants take turns. Beside the rates stands what a call costs
//! all threads together in processor time, which others who use the machine disturb less.
//!
//! `cargo bench -p micro-grpc --bench unary`

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use micro_core::{
    app::App,
    registry::{MemoryRegistry, RegisterOptions},
};
use micro_grpc::{GrpcClient, GrpcClientConfig, GrpcServer};
use proto::{
    HelloReply, HelloRequest,
    greeter_client::GreeterClient,
    greeter_server::{Greeter, GreeterServer},
};
use tokio::{runtime::Runtime, sync::oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, codegen, transport::Channel};

mod proto {
    include!("../tests/it/generated.rs");
}

const SERVICE: &str = "test.Greeter";
const MESSAGE_BYTES: usize = 100;
const CALLER_COUNTS: [usize; 2] = [16, 64];
/// Short turns and many of them, so that a disturbance falls on both alike.
const TURN: Duration = Duration::from_millis(100);
const WARM_UP_PAIRS: usize = 10;
const PAIRS: usize = 60;

/// Sends back what it was sent.
struct Echo;

#[tonic::async_trait]
impl Greeter for Echo {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: request.into_inner().name }))
    }
}

/// The callers' side of both variants.
struct Clients {
    ours: Vec<GreeterClient<GrpcClient>>,
    tonic: Vec<GreeterClient<Channel>>,
}

fn main() {
    let registry = MemoryRegistry::new();
    let (told, address) = mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let serving = thread::spawn({
        let registry = registry.clone();
        move || current_thread().block_on(serve(registry, told, stopped))
    });
    let address = address.recv().expect("the servers start");
    println!(
        "{MESSAGE_BYTES} B each way, callers and servers each on a current-thread runtime of their own, \
         {} connections, {PAIRS} pairs of {TURN:?} a turn",
        GrpcClientConfig::default().connection_count
    );
    current_thread().block_on(async {
        let clients = Clients::connect(registry, &address).await;
        for callers in CALLER_COUNTS {
            compare(&clients, callers).await;
        }
    });
    stop.send(()).expect("the servers wait for it");
    serving.join().expect("the servers end");
}

fn current_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}

async fn serve(registry: MemoryRegistry, told: mpsc::Sender<String>, stopped: oneshot::Receiver<()>) {
    let server = GrpcServer::builder(SERVICE).add_service(GreeterServer::new(Echo)).build().expect("it has a name");
    let app = App::builder("bench").registry(Arc::new(registry), RegisterOptions::default()).component(server).build();
    let app = app.start().await.expect("the application starts");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let raw = tonic::transport::Server::builder().add_service(GreeterServer::new(Echo));
    let raw = tokio::spawn(raw.serve_with_incoming(TcpListenerStream::new(listener)));

    told.send(format!("http://{address}")).expect("main waits for it");
    stopped.await.expect("main says when");
    raw.abort();
    app.stop().await.expect("the application stops");
}

impl Clients {
    async fn connect(registry: MemoryRegistry, address: &str) -> Self {
        let ours = GrpcClient::builder(Arc::new(registry)).service(SERVICE).connect().await;
        let mut tonic = Vec::new();
        for _ in 0..GrpcClientConfig::default().connection_count {
            tonic.push(GreeterClient::connect(address.to_owned()).await.expect("tonic's server listens"));
        }
        Self { ours: vec![GreeterClient::new(ours.expect("the registry answers"))], tonic }
    }
}

async fn compare(clients: &Clients, callers: usize) {
    let (mut ours, mut tonic) = (Vec::new(), Vec::new());
    for pair in 0..WARM_UP_PAIRS + PAIRS {
        // A B B A: what changes with time falls on both alike.
        let turns = if pair % 2 == 0 {
            let first = turn(&clients.ours, callers).await;
            (first, turn(&clients.tonic, callers).await)
        } else {
            let first = turn(&clients.tonic, callers).await;
            (turn(&clients.ours, callers).await, first)
        };
        if pair >= WARM_UP_PAIRS {
            ours.push(turns.0);
            tonic.push(turns.1);
        }
    }
    println!("{callers} callers");
    show("rate", "calls a second", &ours, &tonic, |turn| turn.rate, |ours, tonic| ours / tonic);
    if ours.iter().chain(&tonic).all(|turn| turn.cpu_micros > 0.0) {
        show("processor time", "µs a call", &ours, &tonic, |turn| turn.cpu_micros, |ours, tonic| tonic / ours);
    }
}

/// What one turn came to.
struct Turn {
    /// Calls a second.
    rate: f64,
    /// Microseconds of processor time a call, of callers and servers together; 0 where the system
    /// does not tell.
    cpu_micros: f64,
}

/// All callers call for the length of a turn, each waiting for its answer.
async fn turn<C>(clients: &[GreeterClient<C>], callers: usize) -> Turn
where
    C: tonic::client::GrpcService<tonic::body::Body> + Clone + Send + 'static,
    C::Error: Into<codegen::StdError>,
    C::Future: Send,
    C::ResponseBody: codegen::Body<Data = bytes::Bytes> + Send + 'static,
    <C::ResponseBody as codegen::Body>::Error: Into<codegen::StdError> + Send,
{
    let count = Arc::new(AtomicU64::new(0));
    let cpu_before = cpu_time();
    let began = Instant::now();
    let calling: Vec<_> = (0..callers)
        .map(|caller| {
            let (mut client, count) = (clients[caller % clients.len()].clone(), count.clone());
            tokio::spawn(async move {
                let name = "x".repeat(MESSAGE_BYTES);
                while began.elapsed() < TURN {
                    let reply = client.hello(HelloRequest { name: name.clone() }).await.expect("the call succeeds");
                    assert_eq!(reply.get_ref().message.len(), MESSAGE_BYTES);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for caller in calling {
        caller.await.expect("the caller does not panic");
    }
    let count = count.load(Ordering::Relaxed) as f64;
    let cpu = cpu_time().saturating_sub(cpu_before);
    Turn { rate: count / began.elapsed().as_secs_f64(), cpu_micros: cpu.as_secs_f64() * 1e6 / count }
}

/// The time that the threads of this process ran, as Linux tells it; zero elsewhere.
fn cpu_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

fn show(
    what: &str,
    unit: &str,
    ours: &[Turn],
    tonic: &[Turn],
    value: impl Fn(&Turn) -> f64,
    ratio: impl Fn(f64, f64) -> f64,
) {
    let ratios = sorted(ours.iter().zip(tonic).map(|(ours, tonic)| ratio(value(ours), value(tonic))));
    let (ours, tonic) = (sorted(ours.iter().map(&value)), sorted(tonic.iter().map(&value)));
    println!(
        "  {what}: {:.2} of tonic alone [quartiles {:.2} to {:.2}, all {:.2} to {:.2}], target 0.80 ({:.0} / {:.0} {unit})",
        at(&ratios, 0.5),
        at(&ratios, 0.25),
        at(&ratios, 0.75),
        ratios[0],
        ratios[ratios.len() - 1],
        at(&ours, 0.5),
        at(&tonic, 0.5),
    );
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn at(sorted: &[f64], quantile: f64) -> f64 {
    sorted[(sorted.len() as f64 * quantile) as usize]
}
