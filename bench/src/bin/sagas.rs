//! `cargo xtask bench sagas`: sagas of two branches whose outcome is waited for, on DTM and on the
//! coordinator of ours, in turn, and what they cost the one who submits them and their branches.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use bench::{
    Result,
    duel::{self, Bound, Contestant, Outcome, Subject, Target},
    shop,
    worker::{Turn, Worker},
};
use clap::Parser;
use dev_servers::{Kind, Server};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection};
use tokio::process::Command;

const DATABASE: &str = "bench_sagas";
/// Our tests have DTM note each branch at once, and look for what is due every second.
const AS_BY_DEFAULT: [(&str, &str); 2] = [("UpdateBranchSync", "0"), ("TransCronInterval", "3")];

const AGAINST_GO: Subject = Subject {
    name: "Sagas of two branches that do nothing, on one DTM server with its data in MariaDB",
    key: "sagas_against_go",
    unit: "sagas",
    server: "each one's branches",
    targets: &[
        Target { figure: "rate", bound: Bound::AtLeast(1.0) },
        Target { figure: "cpu_us", bound: Bound::AtMost(0.7) },
    ],
};
const BARRIER: Subject = Subject {
    name: "Sagas on DTM whose branches move money in MariaDB, behind the barrier and without it",
    key: "barrier",
    unit: "sagas",
    server: "the branches",
    targets: &[Target { figure: "rate", bound: Bound::AtLeast(0.9) }],
};
const EMBEDDED: Subject = Subject {
    name: "Sagas on the embedded coordinator beside DTM, each with its data in MariaDB",
    key: "embedded_against_dtm",
    unit: "sagas",
    server: "the branches",
    targets: &[Target { figure: "rate", bound: Bound::AtLeast(2.0) }],
};

const MODES: Subject = Subject {
    name: "Transactions of two branches that move money in MariaDB, all behind the barrier or prepared by XA",
    key: "modes",
    unit: "transactions",
    server: "the branches",
    targets: &[],
};

/// Compares sagas with those of DTM's client for Go on the same server, in turn.
#[derive(Parser)]
struct Arguments {
    /// Turns of each, in the order A B B A.
    #[arg(long, default_value_t = 10)]
    pairs: u32,
    /// How long a turn is, in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    millis: u64,
    /// Callers, each with one saga at a time; may be repeated.
    #[arg(long = "callers", default_values_t = [16])]
    callers: Vec<usize>,
    /// Worker threads of each Rust process; Go has one for each core.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// One part: sagas_against_go, barrier, embedded_against_dtm or modes.
    #[arg(long)]
    only: Option<String>,
    /// Ends with the figures as one JSON object in one line.
    #[arg(long)]
    json: bool,
    /// The program of interop/go-dtm.
    #[arg(long)]
    go_dtm: PathBuf,
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
    let dtm = tokio::task::spawn_blocking(|| Server::start_with(Kind::DtmMysql, &AS_BY_DEFAULT)).await??;
    let world = World::new(arguments, dtm.url())?;
    let setting = format!(
        "Rust: {} worker threads, MALLOC_ARENA_MAX=1; DTM 1.19 with its default settings; MariaDB {}",
        arguments.workers,
        shop::durability(&world.mariadb).await?
    );
    println!("{setting}");
    world.script(&format!("DROP DATABASE IF EXISTS {DATABASE}; CREATE DATABASE {DATABASE}")).await?;
    let mut outcomes = Vec::new();
    let saga = Side::Mode("saga");
    let duels = [
        (AGAINST_GO, Side::Dtm(Branches::Nothing), Side::Go),
        (BARRIER, Side::Dtm(Branches::Barrier), Side::Dtm(Branches::Money)),
        (EMBEDDED, Side::Embedded(Branches::Nothing), Side::Dtm(Branches::Nothing)),
        (MODES, Side::Embedded(Branches::Barrier), saga),
        (MODES, Side::Mode("message"), saga),
        (MODES, Side::Mode("tcc"), saga),
        (MODES, Side::Mode("xa"), saga),
        (MODES, Side::Mode("workflow"), saga),
    ];
    for (subject, ours, theirs) in duels {
        if arguments.only.as_deref().is_none_or(|only| only == subject.key) {
            outcomes.extend(world.duel(subject, [ours, theirs]).await?);
        }
    }
    world.script(&format!("DROP DATABASE {DATABASE}")).await?;
    if arguments.json {
        let outcomes: Vec<Value> = outcomes.iter().map(Outcome::json).collect();
        println!("{}", json!({ "setting": setting, "outcomes": outcomes }));
    }
    Ok(())
}

/// Who submits, and what the branches are.
#[derive(Clone, Copy)]
enum Side {
    /// Ours, on the DTM server.
    Dtm(Branches),
    /// Ours, on the embedded coordinator.
    Embedded(Branches),
    /// Ours, of this mode, on the DTM server; the branches move money behind the barrier.
    Mode(&'static str),
    /// DTM's client for Go, on the DTM server.
    Go,
}

/// What branches of ours do.
#[derive(Clone, Copy)]
enum Branches {
    Nothing,
    Money,
    Barrier,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Dtm(Branches::Nothing) => "ours on DTM",
            Self::Dtm(Branches::Money) => "without",
            Self::Dtm(Branches::Barrier) => "barrier",
            Self::Embedded(_) => "embedded saga",
            Self::Mode(mode) => mode,
            Self::Go => "Go",
        }
    }
}

/// Where everything is.
struct World<'a> {
    arguments: &'a Arguments,
    rust_peer: PathBuf,
    logs: PathBuf,
    /// `host:port` of its gRPC API.
    dtm: String,
    mariadb: String,
}

impl<'a> World<'a> {
    fn new(arguments: &'a Arguments, dtm: &str) -> Result<Self> {
        let program = std::env::current_exe()?;
        let folder = program.parent().ok_or("a program is in a folder")?;
        let logs = folder.join("saga-logs");
        std::fs::create_dir_all(&logs)?;
        let rust_peer = folder.join("rust-peer");
        Ok(Self {
            arguments,
            rust_peer,
            logs,
            dtm: host_and_port(dtm),
            mariadb: host_and_port(&dev_servers::shared(Kind::Mariadb)?),
        })
    }

    fn database(&self) -> String {
        format!("mysql://root@{}/{DATABASE}", self.mariadb)
    }

    async fn script(&self, script: &str) -> Result<()> {
        let mut connection = MySqlConnection::connect(&format!("mysql://root@{}", self.mariadb)).await?;
        sqlx::raw_sql(AssertSqlSafe(script.to_owned())).execute(&mut connection).await?;
        Ok(())
    }

    async fn duel(&self, subject: Subject, sides: [Side; 2]) -> Result<Vec<Outcome>> {
        let [ours, theirs] = sides;
        let [ours, theirs] = [self.contestant(ours).await?, self.contestant(theirs).await?];
        let mut sides = [ours.0, theirs.0];
        let mut outcomes = Vec::new();
        for width in &self.arguments.callers {
            let turn = Turn { width: *width, millis: self.arguments.millis };
            let outcome = duel::fight(subject, &mut sides, turn, self.arguments.pairs).await?;
            print!("{}", outcome.table());
            outcomes.push(outcome);
        }
        for worker in sides.map(|side| side.worker).into_iter().chain([ours.1, theirs.1]) {
            worker.stop().await?;
        }
        Ok(outcomes)
    }

    /// Who submits, and its branches.
    async fn contestant(&self, side: Side) -> Result<(Contestant, Worker)> {
        let name = side.name();
        let database = self.database();
        let [mut branches, mut sagas] = match side {
            Side::Go => [["branches"], ["drive-sagas"]].map(|task| {
                let mut command = Command::new(&self.arguments.go_dtm);
                command.args(task);
                command
            }),
            Side::Dtm(_) | Side::Embedded(_) | Side::Mode(_) => [["branches"], ["sagas"]].map(|task| {
                let mut command = Command::new(&self.rust_peer);
                // As docs/guide/deploying.md says; Go has an allocator of its own.
                command.env("MALLOC_ARENA_MAX", "1");
                command.args(["--workers", &self.arguments.workers.to_string()]).args(task);
                command
            }),
        };
        let dtm = format!("dtm://{}", self.dtm);
        match side {
            Side::Dtm(Branches::Money) => branches.args(["--database", &database]),
            Side::Dtm(Branches::Barrier) | Side::Embedded(Branches::Barrier) | Side::Embedded(Branches::Money) => {
                branches.args(["--database", &database, "--barrier"])
            }
            Side::Mode(_) => branches.args(["--database", &database, "--barrier", "--dtm", &dtm]),
            Side::Dtm(Branches::Nothing) | Side::Embedded(Branches::Nothing) | Side::Go => &mut branches,
        };
        match side {
            Side::Embedded(_) => sagas.args(["--log", &database]),
            Side::Dtm(_) => sagas.args(["--dtm", &dtm]),
            Side::Mode(mode) => sagas.args(["--dtm", &dtm, "--mode", mode, "--database", &database]),
            Side::Go => sagas.args(["--dtm", &self.dtm]),
        };
        let (server, ready) = self.start(name, "branches", &mut branches).await?;
        sagas.args(["--branches", ready["address"].as_str().ok_or("branches say where they are")?]);
        let (worker, _) = self.start(name, "sagas", &mut sagas).await?;
        Ok((Contestant { name, worker, server: server.id() }, server))
    }

    async fn start(&self, name: &'static str, task: &str, command: &mut Command) -> Result<(Worker, Value)> {
        let path: &Path = &self.logs.join(format!("{}-{task}.log", name.replace(' ', "-")));
        Ok(Worker::start(name, command, path).await.map_err(|error| format!("{error}, see {}", path.display()))?)
    }
}

fn host_and_port(url: &str) -> String {
    let address = url.split_once("://").map_or(url, |(_, rest)| rest);
    let address = address.split('?').next().unwrap_or(address);
    address.rsplit('@').next().unwrap_or(address).to_owned()
}
