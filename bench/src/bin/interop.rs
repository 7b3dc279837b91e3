//! `cargo xtask bench interop`: calls and publishing, ours in turn with go-micro v4's and with raw
//! tonic's, and what each costs.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use bench::{
    Result,
    duel::{self, Bound, Contestant, Outcome, Subject, Target},
    process::listening_on,
    topics,
    worker::{Turn, Worker},
};
use clap::{Parser, ValueEnum};
use dev_servers::Kind;
use serde_json::{Value, json};
use tokio::process::Command;

/// Bytes of a name that is sent, and of a published body.
const BYTES: &str = "100";
const KEYS: &str = "1000";
/// As many as events have at the least.
const HEADERS: [&str; 3] =
    ["Content-Type=application/grpc+proto", "Event-Type=OrderPaid", "Source=go.micro.service.order"];

const CALLS_AGAINST_GO: Subject = Subject {
    name: "Unary calls, both through Consul",
    key: "calls_against_go_micro",
    unit: "calls",
    server: "each one's own",
    targets: &[Target { figure: "per_cpu_second", bound: Bound::AtLeast(2.5) }],
};
const CALLS_AGAINST_TONIC: Subject = Subject {
    name: "Unary calls, ours through Consul and both stacks, go-micro's form",
    key: "calls_against_tonic",
    unit: "calls",
    server: "each one's own",
    targets: &[Target { figure: "rate", bound: Bound::AtLeast(0.85) }],
};
const SYNCHRONOUS: Subject = Subject {
    name: "Keyed publish, a receipt before the next",
    key: "publish_synchronous",
    unit: "messages",
    server: "Kafka",
    targets: &[
        Target { figure: "rate", bound: Bound::AtLeast(1.0) },
        Target { figure: "client_cpu_us", bound: Bound::AtMost(0.5) },
    ],
};
const ASYNCHRONOUS: Subject = Subject {
    name: "Keyed publish, receipts as they come",
    key: "publish_asynchronous",
    unit: "messages",
    server: "Kafka",
    targets: &[Target { figure: "rate", bound: Bound::AtLeast(1.0) }],
};
const ENVELOPE_ONE_BY_ONE: Subject = Subject {
    name: "The envelope beside the native form, a receipt before the next",
    key: "envelope_synchronous",
    unit: "messages",
    server: "Kafka",
    targets: &[],
};
const ENVELOPE_IN_WINDOW: Subject = Subject {
    name: "The envelope beside the native form, receipts as they come",
    key: "envelope_asynchronous",
    unit: "messages",
    server: "Kafka",
    targets: &[],
};

/// Compares calls and publishing with go-micro v4's and raw tonic's on the same servers, in turn.
#[derive(Parser)]
struct Arguments {
    /// What is measured.
    #[arg(long, value_enum, default_value_t = Part::All)]
    part: Part,
    /// Turns of each, in the order A B B A.
    #[arg(long, default_value_t = 10)]
    pairs: u32,
    /// How long a turn is, in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    millis: u64,
    /// Worker threads of each Rust process; Go has one for each core.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Ends with the figures as one JSON object in one line.
    #[arg(long)]
    json: bool,
    /// The program of interop/go-peer.
    #[arg(long)]
    go_peer: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    All,
    Calls,
    Publish,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let world = World::new(arguments)?;
    let setting = format!(
        "{BYTES} B; Rust: {} worker threads, MALLOC_ARENA_MAX=1; Kafka: {} partitions, acks=all, {KEYS} keys, no \
         compression, linger 0; ours idempotent, go-micro's not",
        arguments.workers,
        topics::PARTITION_COUNT
    );
    println!("{setting}");
    let mut outcomes = Vec::new();
    if arguments.part != Part::Publish {
        outcomes.extend(world.calls().await?);
    }
    if arguments.part != Part::Calls {
        outcomes.extend(world.publishes().await?);
    }
    if arguments.json {
        let outcomes: Vec<Value> = outcomes.iter().map(Outcome::json).collect();
        println!("{}", json!({ "setting": setting, "outcomes": outcomes }));
    }
    Ok(())
}

/// Where everything is.
struct World<'a> {
    arguments: &'a Arguments,
    rust_peer: PathBuf,
    logs: PathBuf,
    kafka: String,
    consul: String,
}

impl<'a> World<'a> {
    fn new(arguments: &'a Arguments) -> Result<Self> {
        let program = std::env::current_exe()?;
        let folder = program.parent().ok_or("a program is in a folder")?;
        let logs = folder.join("interop-logs");
        std::fs::create_dir_all(&logs)?;
        Ok(Self {
            arguments,
            rust_peer: folder.join("rust-peer"),
            logs,
            kafka: address(Kind::Kafka)?,
            consul: address(Kind::Consul)?,
        })
    }

    fn rust(&self) -> Command {
        let mut command = Command::new(&self.rust_peer);
        // As docs/guide/deploying.md says; Go has an allocator of its own.
        command.env("MALLOC_ARENA_MAX", "1").args(["--workers", &self.arguments.workers.to_string()]);
        command
    }

    fn go(&self) -> Command {
        Command::new(&self.arguments.go_peer)
    }

    async fn start(&self, name: &'static str, log: &str, command: &mut Command) -> Result<(Worker, Value)> {
        let path: &Path = &self.logs.join(log).with_extension("log");
        Ok(Worker::start(name, command, path).await.map_err(|error| format!("{error}, see {}", path.display()))?)
    }

    async fn fight(&self, subject: Subject, sides: &mut [Contestant; 2], width: usize) -> Result<Outcome> {
        let turn = Turn { width, millis: self.arguments.millis };
        let outcome = duel::fight(subject, sides, turn, self.arguments.pairs).await?;
        print!("{}", outcome.table());
        Ok(outcome)
    }

    async fn calls(&self) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for (subject, against) in [(CALLS_AGAINST_GO, Caller::Go), (CALLS_AGAINST_TONIC, Caller::Tonic)] {
            let [ours, theirs] = [self.caller(Caller::Ours).await?, self.caller(against).await?];
            let mut sides = [ours.0, theirs.0];
            for width in [16, 64] {
                outcomes.push(self.fight(subject, &mut sides, width).await?);
            }
            for worker in sides.map(|side| side.worker).into_iter().chain([ours.1, theirs.1]) {
                worker.stop().await?;
            }
        }
        Ok(outcomes)
    }

    /// A client and its server.
    async fn caller(&self, caller: Caller) -> Result<(Contestant, Worker)> {
        let (service, registry) =
            (format!("bench.interop.{}", uuid::Uuid::new_v4()), format!("consul://{}", self.consul));
        let name = caller.name();
        let [mut serve, mut calls] = match caller {
            Caller::Go => [("serve", self.go()), ("drive-calls", self.go())].map(|(task, mut command)| {
                command.args([task, "--registry", &registry, "--service", &service]);
                command
            }),
            Caller::Ours | Caller::Tonic => {
                [("serve", self.rust()), ("calls", self.rust())].map(|(task, mut command)| {
                    command.args([task, "--kind", caller.kind(), "--consul", &self.consul, "--service", &service]);
                    command
                })
            }
        };
        let (server, ready) = self.start(name, &format!("{}-serve", caller.kind()), &mut serve).await?;
        if caller == Caller::Tonic {
            calls.args(["--address", ready["address"].as_str().ok_or("a server says where it is")?]);
        }
        calls.args(["--bytes", BYTES]);
        let (worker, _) = self.start(name, &format!("{}-calls", caller.kind()), &mut calls).await?;
        Ok((Contestant { name, worker, server: server.id() }, server))
    }

    async fn publishes(&self) -> Result<Vec<Outcome>> {
        let topic = format!("bench.interop.{}", uuid::Uuid::new_v4());
        topics::create(&self.kafka, &topic).await?;
        let outcomes = self.publishes_to(&topic).await;
        // The records would stay on somebody's disk.
        topics::remove(&self.kafka, &topic).await?;
        outcomes
    }

    async fn publishes_to(&self, topic: &str) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for (subject, sides, width) in [
            (SYNCHRONOUS, [Sender::Envelope, Sender::Go], 16),
            (ASYNCHRONOUS, [Sender::Envelope, Sender::Go], 256),
            (ENVELOPE_ONE_BY_ONE, [Sender::Envelope, Sender::Native], 16),
            (ENVELOPE_IN_WINDOW, [Sender::Envelope, Sender::Native], 256),
        ] {
            let has_window = matches!(subject.key, "publish_asynchronous" | "envelope_asynchronous");
            let [ours, theirs] = sides;
            let mut sides =
                [self.sender(ours, topic, has_window).await?, self.sender(theirs, topic, has_window).await?];
            outcomes.push(self.fight(subject, &mut sides, width).await?);
            for side in sides {
                side.worker.stop().await?;
            }
        }
        Ok(outcomes)
    }

    async fn sender(&self, sender: Sender, topic: &str, has_window: bool) -> Result<Contestant> {
        let (name, mut command) = match sender {
            Sender::Go => ("go-micro", self.go()),
            Sender::Envelope => ("envelope", self.rust()),
            Sender::Native => ("native", self.rust()),
        };
        match sender {
            Sender::Go => command.arg("drive-publish").args(has_window.then_some("--async")),
            Sender::Envelope | Sender::Native => {
                command.args(["publish", "--form", name]).args(has_window.then_some("--window"))
            }
        };
        command.args(["--kafka", &self.kafka, "--topic", topic, "--bytes", BYTES, "--keys", KEYS]);
        command.args(HEADERS.iter().flat_map(|header| ["--header", header]));
        let (worker, _) = self.start(name, &format!("{name}-publish"), &mut command).await?;
        let port = self.kafka.rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| format!("{} has no port", self.kafka))?;
        Ok(Contestant { name, worker, server: listening_on(port)? })
    }
}

/// Who calls, and a server of the same kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Ours,
    Go,
    Tonic,
}

impl Caller {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Go => "go-micro",
            Self::Tonic => "tonic",
        }
    }

    /// As `rust-peer --kind` has it.
    fn kind(self) -> &'static str {
        match self {
            Self::Ours => "micro",
            Self::Go => "go-micro",
            Self::Tonic => "tonic",
        }
    }
}

/// Who publishes, and in which form.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Envelope,
    Native,
    Go,
}

fn address(kind: Kind) -> Result<String> {
    let url = dev_servers::shared(kind)?;
    let address = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    Ok(address.rsplit('@').next().unwrap_or(address).to_owned())
}
