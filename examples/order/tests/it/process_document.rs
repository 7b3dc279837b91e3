//! How the program finds its document in Consul's key/value store, as the Go services find theirs.
#![cfg(unix)]

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use dev_servers::Kind;
use micro_testkit::{Fixture, Missing, eventually, unique};

use crate::process::{Program, WAIT, put_document};

/// The shared server's URL.
struct Consul(String);

impl Fixture for Consul {
    async fn start() -> Result<Self, Missing> {
        let shared = tokio::task::spawn_blocking(|| dev_servers::shared(Kind::Consul));
        shared.await.expect("no panic").map(Self).map_err(Missing::new)
    }

    fn patience(&self) -> Duration {
        WAIT
    }
}

fn program(consul: &Consul, prefix: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env("CONSUL_HOST", consul.0.trim_start_matches("consul://")).env("CONSUL_PREFIX", prefix);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_below_the_services_key_are_one_document_and_variables_stand_in_it() {
    let Some(consul) = micro_testkit::ready::<Consul>().await else { return };
    let (name, prefix, folder) = (unique("shop"), unique("micro"), tempfile::tempdir().unwrap());
    for (key, value) in [
        ("order", r#"{"service": {"name": "overridden", "version": "7.0.0"}}"#),
        ("order/service", r#"{"name": "${SHOP_NAME}.Order${NOT_SET_ANYWHERE}", "listen": "127.0.0.1:0"}"#),
        // Of another service whose name begins alike.
        ("order_archive", "no JSON at all"),
    ] {
        put_document(&consul.0, &format!("{prefix}/{key}"), value);
    }
    let database = format!("sqlite:{}", folder.path().join("orders.db").display());
    let mut command = program(&consul, &format!("/{prefix}/"), &["--broker", "memory:", "--database", &database]);
    command.env("SHOP_NAME", &name).stderr(Stdio::inherit());
    let (registry, service) = (micro_rs::backends::registry(&consul.0).await.unwrap(), format!("{name}.Order"));
    let found = async || registry.instances(&service).await.map_err(|error| error.report());
    let look = || async { found().await?.pop().ok_or("none".to_owned()) };
    let (_program, instance) = Program::start(&mut command, "the instance in Consul", look).await;
    assert_eq!(instance.version, "7.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_not_there_is_an_error_unless_options_say_where_data_goes() {
    let Some(consul) = micro_testkit::ready::<Consul>().await else { return };
    let prefix = format!("/{}/", unique("micro"));
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program(program(&consul, &prefix, &[]).current_dir(folder.path()).spawn().unwrap());
    let status = eventually(WAIT, "the program's end", || {
        let ended = program.0.try_wait().unwrap().ok_or("it runs");
        async move { ended }
    })
    .await;
    assert_eq!(status.code(), Some(1));
    let said = std::io::read_to_string(program.0.stderr.take().unwrap()).unwrap();
    let key = format!("key={}order", &prefix[1..]);
    assert!(said.lines().count() == 1 && said.contains(&key) && said.contains("CONSUL_PREFIX"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no database was made");
}
