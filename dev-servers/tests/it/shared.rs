//! The servers that all tests share: here each test has such a set of its own.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    process::Command,
};

use dev_servers::{Kind, Servers};
use tempfile::TempDir;

use crate::{eventually, is_there};

/// A set that is brought down with the test.
struct Own {
    servers: Servers,
    folder: TempDir,
}

impl Own {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { servers: Servers::of_workspace().in_folder(folder.path()), folder }
    }

    fn up(&self, kind: Kind, is_durable: bool) -> dev_servers::Shared {
        let [(started, outcome)] = &self.servers.up(&[kind], is_durable)[..] else { panic!("one was asked for") };
        assert_eq!(*started, kind);
        outcome.clone().unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.servers.down(&Kind::ALL).unwrap();
    }
}

#[test]
fn up_twice_is_up_once() {
    if !is_there(Kind::Consul) {
        return;
    }
    let own = Own::new();
    let first = own.up(Kind::Consul, false);
    assert_eq!(own.up(Kind::Consul, false), first);
    assert_eq!(own.servers.status(), [first]);
    own.servers.down(&Kind::ALL).unwrap();
    assert_eq!(own.servers.status(), []);
}

#[test]
fn a_server_that_becomes_durable_keeps_its_data() {
    if !is_there(Kind::Postgres) {
        return;
    }
    let own = Own::new();
    let fast = own.up(Kind::Postgres, false);
    let ask = |statement: &str| {
        let url = format!("{}/postgres", own.servers.status()[0].url);
        let output = Command::new("psql").args(["-X", "-At", "-d", &url, "-c", statement]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(ask("show fsync"), "off");
    ask("create table kept (id int)");
    let durable = own.up(Kind::Postgres, true);
    assert_ne!(durable.pid, fast.pid);
    assert!(durable.is_durable);
    assert_eq!(ask("show fsync"), "on");
    assert_eq!(ask("select count(*) from kept"), "0");
    assert_eq!(own.up(Kind::Postgres, false), durable, "a durable server does for those who do not care");
}

/// Below a folder that only its owner may enter, such as root's own.
#[cfg(unix)]
#[test]
fn postgres_runs_where_its_user_may_not_go() {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    if !is_there(Kind::Postgres) {
        return;
    }
    let own = Own::new();
    fs::set_permissions(own.folder.path(), Permissions::from_mode(0o700)).unwrap();
    let server = own.up(Kind::Postgres, false);
    assert_eq!(own.servers.status(), std::slice::from_ref(&server));
    own.servers.down(&Kind::ALL).unwrap();
    // As root it had to go elsewhere, and what stands elsewhere is not removed with the test's folder.
    fs::remove_dir_all(server.folder).unwrap();
}

#[test]
fn a_port_that_is_taken_is_left_to_its_owner() {
    if !is_there(Kind::Consul) {
        return;
    }
    let own = Own::new();
    let before = own.up(Kind::Consul, false);
    own.servers.down(&Kind::ALL).unwrap();
    let port: u16 = before.url.rsplit(':').next().unwrap().parse().unwrap();
    // A connection of another test may have it for a moment.
    let mut somebody = None;
    assert!(eventually(|| {
        somebody = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
        somebody.is_some()
    }));
    let after = own.up(Kind::Consul, false);
    assert_ne!(after.url, before.url);
    assert_eq!(own.servers.status(), [after]);
}

#[test]
fn a_server_that_died_is_not_in_the_status_and_comes_back() {
    if !is_there(Kind::Consul) {
        return;
    }
    let own = Own::new();
    let dead = own.up(Kind::Consul, false);
    assert!(Command::new("sh").args(["-c", &format!("kill -KILL {}", dead.pid)]).status().unwrap().success());
    let port: u16 = dead.url.rsplit(':').next().unwrap().parse().unwrap();
    // The system may give its port back later than its process.
    assert!(eventually(|| {
        own.servers.status().is_empty() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
    }));
    let again = own.up(Kind::Consul, false);
    assert_ne!(again.pid, dead.pid);
    assert_eq!(again.url, dead.url);
}

#[test]
fn a_number_that_is_now_another_programs_is_left_alone() {
    let own = Own::new();
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    let folder = own.folder.path();
    let record = format!(
        r#"{{"pid":{},"port":1,"is_durable":false,"folder":"{}"}}"#,
        bystander.id(),
        folder.join("mariadb").display()
    );
    fs::write(folder.join("mariadb.json"), record).unwrap();
    assert_eq!(own.servers.status(), []);
    own.servers.down(&Kind::ALL).unwrap();
    assert!(bystander.try_wait().unwrap().is_none(), "it still runs");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn what_a_killed_test_left_behind_is_cleared_away() {
    let own = Own::new();
    let mut owner = Command::new("true").spawn().unwrap();
    let dead = owner.id();
    owner.wait().unwrap();
    let left = own.folder.path().join(format!("own/{dead}-1-kafka"));
    let kept = own.folder.path().join(format!("own/{}-1-kafka", std::process::id()));
    for folder in [&left, &kept] {
        fs::create_dir_all(folder).unwrap();
    }
    // What counts is the folder in its command line.
    fs::write(left.join("log"), "").unwrap();
    let mut server = Command::new("tail").arg("-f").arg(left.join("log")).spawn().unwrap();
    // A process that has just begun its program has no command line for a moment.
    let command_line = format!("/proc/{}/cmdline", server.id());
    while fs::read(&command_line).unwrap().is_empty() {
        std::thread::yield_now();
    }
    own.servers.down(&Kind::ALL).unwrap();
    server.wait().unwrap();
    assert!(!left.exists());
    assert!(kept.exists());
}
