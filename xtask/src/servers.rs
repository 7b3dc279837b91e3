//! `cargo xtask servers`: the real servers that tests and benchmarks share.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use dev_servers::{Kind, Servers, Shared};

/// What to do with the servers.
#[derive(Subcommand)]
pub(crate) enum Task {
    /// Installs what is missing, starts what does not run, waits until all answer.
    Up(Up),
    /// Stops them; their data stay.
    Down {
        /// kafka, consul, etcd, mariadb, postgres, dtm, dtm-mysql, redis; all of them when none is named.
        kinds: Vec<Kind>,
    },
    /// Which of them run and answer.
    Status {
        /// One JSON object with the URL of each, for programs.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(crate) struct Up {
    /// A commit is on the disk before it is acknowledged: for benchmarks and fault tests.
    #[arg(long)]
    durable: bool,
    /// kafka, consul, etcd, mariadb, postgres, dtm, dtm-mysql, redis; all of them when none is named.
    kinds: Vec<Kind>,
}

/// Does it, and answers 1 where a server cannot be had.
pub(crate) fn run(task: Task) -> ExitCode {
    let servers = Servers::of_workspace();
    match task {
        Task::Up(Up { durable, kinds }) => up(&servers, &all_or(kinds), durable),
        Task::Down { kinds } => down(&servers, &all_or(kinds)),
        Task::Status { json: true } => {
            let running = servers.status();
            println!("{}", json(running.iter().map(|server| (server.kind, server.url.as_str()))));
            ExitCode::SUCCESS
        }
        Task::Status { json: false } => {
            print!("{}", table(&servers.status()));
            ExitCode::SUCCESS
        }
    }
}

fn all_or(kinds: Vec<Kind>) -> Vec<Kind> {
    if kinds.is_empty() { Kind::ALL.to_vec() } else { kinds }
}

fn up(servers: &Servers, kinds: &[Kind], is_durable: bool) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (kind, outcome) in servers.up(kinds, is_durable) {
        if let Err(error) = outcome {
            eprintln!("{kind}: {error}\n");
            code = ExitCode::FAILURE;
        }
    }
    print!("{}", table(&servers.status()));
    code
}

fn down(servers: &Servers, kinds: &[Kind]) -> ExitCode {
    match servers.down(kinds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// `{"kafka":{"url":…},…}`, only those that run and answer.
fn json<'a>(running: impl IntoIterator<Item = (Kind, &'a str)>) -> serde_json::Value {
    running.into_iter().map(|(kind, url)| (kind.to_string(), serde_json::json!({ "url": url }))).collect()
}

fn table(running: &[Shared]) -> String {
    let row = |kind: Kind| match running.iter().find(|server| server.kind == kind) {
        Some(Shared { url, pid, is_durable, folder, .. }) => {
            let durability = if *is_durable { "durable" } else { "fast" };
            format!("{kind:<10}{url:<50}{durability:<9}pid {pid:<8} {}\n", folder.display())
        }
        None => format!("{kind:<10}does not run\n"),
    };
    Kind::ALL.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_for_programs_has_an_object_with_the_url_of_each() {
        let all = [
            (Kind::Kafka, "kafka://127.0.0.1:1"),
            (Kind::Consul, "consul://127.0.0.1:2"),
            (Kind::Etcd, "etcd://127.0.0.1:5"),
            (Kind::Mariadb, "mysql://root@127.0.0.1:3"),
            (Kind::Postgres, "postgres://postgres@127.0.0.1:4"),
            (Kind::Dtm, "dtm://127.0.0.1:7?http=127.0.0.1:6"),
            (Kind::DtmMysql, "dtm://127.0.0.1:9?http=127.0.0.1:8"),
            (Kind::Redis, "redis://127.0.0.1:10"),
        ];
        let expected = r#"{"kafka":{"url":"kafka://127.0.0.1:1"},"consul":{"url":"consul://127.0.0.1:2"},
            "etcd":{"url":"etcd://127.0.0.1:5"},"mariadb":{"url":"mysql://root@127.0.0.1:3"},"postgres":{"url":"postgres://postgres@127.0.0.1:4"},
            "dtm":{"url":"dtm://127.0.0.1:7?http=127.0.0.1:6"},"dtm-mysql":{"url":"dtm://127.0.0.1:9?http=127.0.0.1:8"},
            "redis":{"url":"redis://127.0.0.1:10"}}"#;
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        assert_eq!(json(all), expected);
        assert_eq!(json([]).to_string(), "{}");
    }
}
