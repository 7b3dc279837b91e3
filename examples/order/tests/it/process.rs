//! The program on real servers: its settings from Consul, its topics on Kafka, its end by SIGTERM.
#![cfg(unix)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use dev_servers::{Kind, Server};
use micro_core::registry::Registry;
use micro_grpc::GrpcClient;
use micro_rs::registry::consul::{ConsulConfig, ConsulRegistry};
use micro_testkit::{Fixture, Missing, eventually, unique};
use order::proto::{OrderId, order_client::OrderClient};
use serde_json::Value;
use tonic::Code;

use crate::databases::Databases;

pub(crate) const WAIT: Duration = Duration::from_secs(90);

/// A Kafka of its own, for the service's topics have fixed names, and shared servers beside it.
struct Servers {
    kafka: Server,
    consul: String,
    mariadb: String,
}

impl Fixture for Servers {
    async fn start() -> Result<Self, Missing> {
        let start = || {
            let (consul, mariadb) = (dev_servers::shared(Kind::Consul)?, dev_servers::shared(Kind::Mariadb)?);
            Ok(Self { kafka: Server::start(Kind::Kafka)?, consul, mariadb })
        };
        tokio::task::spawn_blocking(start).await.expect("no panic").map_err(|reason: String| Missing::new(reason))
    }

    fn patience(&self) -> Duration {
        WAIT
    }
}

/// The program, killed when the test ends, however it ends.
pub(crate) struct Program(pub(crate) Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// Starts it and waits until `look` finds it. It ends where a server does not answer its start in time, and is
    /// started again, as a supervisor does.
    pub(crate) async fn start<T, F: Future<Output = Result<T, String>>>(
        command: &mut Command,
        what: &str,
        look: impl Fn() -> F,
    ) -> (Self, T) {
        let running = Mutex::new((Self(command.spawn().unwrap()), command));
        let found = eventually(WAIT, what, || async {
            let looked = look().await;
            let (program, command) = &mut *running.lock().unwrap();
            if looked.is_err() && program.0.try_wait().unwrap().is_some() {
                *program = Self(command.spawn().unwrap());
            }
            looked
        })
        .await;
        (running.into_inner().unwrap().0, found)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_runs_by_the_document_in_consul_until_sigterm() {
    let Some(servers) = micro_testkit::ready::<Servers>().await else { return };
    let test_database = Databases::Server(servers.mariadb.clone()).create("orders").await;
    let service = unique("shop.Order");
    let prefix = format!("/{}/", unique("micro"));
    put_document(
        &servers.consul,
        &format!("{}order", &prefix[1..]),
        &document(&servers, &service, test_database.name()),
    );

    // Nothing creates topics by itself: the first one that is missing is named.
    eventually(WAIT, "a topic that is missing", || async {
        let output = program(&servers, &prefix, &[]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        // A server that did not answer in time is told instead.
        if said.contains("no such topic") && said.contains("topic=") { Ok(()) } else { Err(said) }
    })
    .await;

    let recorder = Recorder::before(&servers.consul);
    let mut command = program(&servers, &prefix, &["--create-topics", "2"]);
    command.env("CONSUL_HOST", &recorder.address);
    let registry = Arc::new(ConsulRegistry::connect(ConsulConfig::from_url(&servers.consul).unwrap()).await.unwrap());
    let (mut program, instance) = Program::start(&mut command, "the instance in Consul", || async {
        let mut instances = registry.instances(&service).await.map_err(|error| error.report())?;
        let only = instances.pop().ok_or("none")?;
        if instances.is_empty() { Ok(only) } else { Err("more than one".to_owned()) }
    })
    .await;
    let log = log_of(&mut program);
    let id = assert_is_announced_as_gos(&servers, &service);
    let topics = instance.endpoints.iter().filter_map(|endpoint| endpoint.metadata.get("topic"));
    assert_eq!(topics.collect::<Vec<_>>(), ["ProductEventDLQ", "ProductEvent", "OrderEventDLQ"]);
    // As the document says it, 30 s; and go-micro's rule of when a critical instance is given up.
    let check = r#""Check":{"TTL":"30s","DeregisterCriticalServiceAfter":"1m5s","#;
    recorder.hears(&[&format!(r#""ID":"{id}""#), check]).await;
    recorder.hears(&[&format!("PUT /v1/agent/check/pass/service:{id}")]).await;
    assert_answers(registry.clone(), &service).await;
    let told = test_database.database.fetch_all("SELECT COUNT(*) FROM orders", &[]).await.unwrap();
    assert_eq!(told[0].get::<i64>(0).unwrap(), 0, "its tables are in the database that the document names");

    assert!(Command::new("kill").args(["-TERM", &program.0.id().to_string()]).status().unwrap().success());
    let status = tokio::task::spawn_blocking(move || program.0.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    eventually(WAIT, "the instance to be gone", || async {
        registry.instances(&service).await.is_ok_and(|instances| instances.is_empty())
    })
    .await;
    recorder.hears(&[&format!("PUT /v1/agent/service/deregister/{id} ")]).await;
    let log = log.join().unwrap();
    let unused: Vec<&String> = log.iter().filter(|line| line.contains("say nothing here")).collect();
    assert!(unused.len() == 1 && unused[0].contains("service.qps"), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("memory:")), "{log:#?}");
}

/// As a Go service stands there that is told so by its variables.
#[cfg(feature = "registry-etcd")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_stands_in_etcd_until_sigterm() {
    let Some(etcd) = micro_testkit::ready::<Etcd>().await else { return };
    let service = unique("shop.Order");
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("orders.db").display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_order"));
    command.args(["--broker", "memory:", "--database", &database]).env_remove("CONSUL_HOST");
    command.env("MICRO_REGISTRY", "etcd").env("MICRO_REGISTRY_ADDRESS", etcd.0.trim_start_matches("etcd://"));
    command.env("MICRO_SERVER_NAME", &service).stdin(Stdio::null()).stdout(Stdio::null());
    let registry = micro_rs::backends::registry(&etcd.0).await.unwrap();
    let found = async || registry.instances(&service).await.map_err(|error| error.report());
    let look = || async { found().await?.pop().ok_or("none".to_owned()) };
    let (mut program, instance) = Program::start(&mut command, "the instance in etcd", look).await;
    assert_eq!((&*instance.metadata["registry"], &*instance.metadata["protocol"]), ("etcd", "grpc"));
    let names: Vec<_> = instance.endpoints.iter().map(|endpoint| &*endpoint.name).collect();
    assert_eq!(names, ["Order.GetOrderById", "Order.PayNotify", "Func", "Func", "Func"]);
    assert_answers(registry.clone(), &service).await;

    assert!(Command::new("kill").args(["-TERM", &program.0.id().to_string()]).status().unwrap().success());
    let status = tokio::task::spawn_blocking(move || program.0.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(eventually(WAIT, "the answer of etcd", || async { found().await }).await, []);
}

/// The shared server's URL.
#[cfg(feature = "registry-etcd")]
struct Etcd(String);

#[cfg(feature = "registry-etcd")]
impl Fixture for Etcd {
    async fn start() -> Result<Self, Missing> {
        let shared = tokio::task::spawn_blocking(|| dev_servers::shared(Kind::Etcd));
        shared.await.expect("no panic").map(Self).map_err(Missing::new)
    }

    fn patience(&self) -> Duration {
        WAIT
    }
}

/// A call is answered, though the first ones may come to their deadline.
async fn assert_answers(registry: Arc<dyn Registry>, service: &str) {
    let client = OrderClient::new(GrpcClient::builder(registry).service(service).connect().await.unwrap());
    eventually(WAIT, "the answer that there is no such order", || async {
        let refused = client.clone().get_order_by_id(OrderId { order_id: 1 }).await.unwrap_err();
        if refused.code() == Code::NotFound { Ok(()) } else { Err(refused.to_string()) }
    })
    .await;
}

/// The registration and its check, as the agent has them; the instance's id.
fn assert_is_announced_as_gos(servers: &Servers, service: &str) -> String {
    let instance = &ask_agent(servers, &format!("/v1/health/service/{service}"))[0];
    let id = instance["Service"]["ID"].as_str().unwrap();
    let uuid = id.strip_prefix(&format!("{service}-")).expect("the name stands before");
    assert_eq!(uuid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
    let expected = r#"{"broker":"kafka","protocol":"grpc","registry":"consul","server":"grpc","transport":"grpc"}"#;
    assert_eq!(instance["Service"]["Meta"], serde_json::from_str::<Value>(expected).unwrap());
    let tags: Vec<_> = instance["Service"]["Tags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let count = |kind: &str| tags.iter().filter(|tag| tag.starts_with(kind)).count();
    // Two methods, and three topics.
    assert_eq!([count("t-"), count("e-"), count("v-")], [5, 5, 1], "{tags:?}");
    let checks = instance["Checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["ServiceID"] == id).expect("a check of its own");
    assert_eq!(check["CheckID"], format!("service:{id}"));
    assert_eq!(check["Status"], "passing");
    id.to_owned()
}

/// Stands before Consul and keeps what it is sent: the agent shows of a TTL check neither the TTL nor
/// when it is given up.
struct Recorder {
    address: String,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    fn before(consul: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (consul, heard) = (consul.trim_start_matches("consul://").to_owned(), Arc::<Mutex<Vec<u8>>>::default());
        let keeps = heard.clone();
        // Threads of the test's process, which ends with them.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&consul) else { return };
                let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
                let keeps = keeps.clone();
                std::thread::spawn(move || pass_on(client, server, &keeps));
            }
        });
        Self { address, heard }
    }

    /// Waits until all of these stood in requests.
    async fn hears(&self, texts: &[&str]) {
        eventually(WAIT, &format!("Consul is told {texts:?}"), || async {
            let heard = String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned();
            if texts.iter().all(|text| heard.contains(text)) { Ok(()) } else { Err(heard) }
        })
        .await;
    }
}

fn pass_on(mut client: TcpStream, mut server: TcpStream, keeps: &Mutex<Vec<u8>>) {
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = client.read(&mut part) {
        keeps.lock().unwrap().extend_from_slice(&part[..count]);
        if server.write_all(&part[..count]).is_err() {
            return;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}

fn ask_agent(servers: &Servers, path: &str) -> Value {
    let address = servers.consul.trim_start_matches("consul://");
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    serde_json::from_str(body).expect("JSON")
}

fn program(servers: &Servers, prefix: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order"));
    command.args(["--broker", servers.kafka.url(), "--workers", "2", "--lanes", "2"]).args(arguments);
    command.env("CONSUL_HOST", servers.consul.trim_start_matches("consul://")).env("CONSUL_PREFIX", prefix);
    command.env("RUST_LOG", "info").stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// As the Go order service has it, with keys that say nothing here.
fn document(servers: &Servers, service: &str, database: &str) -> String {
    let (account, host) = servers.mariadb.trim_start_matches("mysql://").split_once('@').unwrap();
    format!(
        r#"{{"service": {{"name": "{service}", "version": "7.0.0", "listen": "127.0.0.1:0", "qps": 5000}},
            "database": {{"dsn": "{account}:@tcp({host})/{database}?charset=utf8mb4", "max_open_conns": 8}},
            "consul": {{"registry_addrs": ["127.0.0.1:1"], "register_ttl": 30, "register_interval": 10}},
            "broker": {{"kafka": {{"hosts": ["127.0.0.1:1"]}}}}}}"#
    )
}

pub(crate) fn put_document(consul: &str, key: &str, document: &str) {
    let address = consul.trim_start_matches("consul://");
    let mut stream = TcpStream::connect(address).unwrap();
    let length = document.len();
    write!(
        stream,
        "PUT /v1/kv/{key} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{document}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The lines of its log, once it has ended.
fn log_of(program: &mut Program) -> std::thread::JoinHandle<Vec<String>> {
    let lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    std::thread::spawn(move || lines.map_while(Result::ok).collect())
}
