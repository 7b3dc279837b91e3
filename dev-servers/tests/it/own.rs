//! A server of a test's own.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Output},
};

use dev_servers::{Kind, Server, free_port};

use crate::{eventually, is_there};

fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn sql(server: &Server, kind: Kind, statement: &str) -> String {
    let port = server.port().to_string();
    let output = match kind {
        Kind::Mariadb => output(
            Command::new("mariadb")
                .args(["--no-defaults", "-h127.0.0.1", "-P", &port, "-uroot", "-N", "-e", statement])
                .env_clear(),
        ),
        _ => output(Command::new("psql").args([
            "-X",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "-At",
            "-c",
            statement,
        ])),
    };
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn keeps_its_rows(kind: Kind, database: &str) {
    if !is_there(kind) {
        return;
    }
    let mut server = Server::start(kind).unwrap();
    let table = format!("{database}.kept");
    sql(&server, kind, &format!("create schema {database}"));
    sql(&server, kind, &format!("create table {table} (id int)"));
    for round in 1..=3 {
        sql(&server, kind, &format!("insert into {table} values ({round})"));
        let (pid, url) = (server.pid(), server.url().to_owned());
        server.kill();
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "a killed server is gone when `kill` returns");
        assert!(TcpStream::connect(("127.0.0.1", server.port())).is_err(), "nobody listens any more");
        server.restart().unwrap();
        assert_ne!(server.pid(), pid);
        assert_eq!(server.url(), url);
        assert_eq!(sql(&server, kind, &format!("select count(*) from {table}")), round.to_string());
    }
}

#[test]
fn a_killed_mariadb_comes_back_with_its_rows() {
    keeps_its_rows(Kind::Mariadb, "shop");
}

#[test]
fn a_killed_postgres_comes_back_with_its_rows() {
    keeps_its_rows(Kind::Postgres, "shop");
}

#[test]
fn a_killed_kafka_comes_back_with_its_topics() {
    if !is_there(Kind::Kafka) {
        return;
    }
    let settings = [("num.partitions", "3"), ("auto.create.topics.enable", "true")];
    let mut server = Server::start_with(Kind::Kafka, &settings).unwrap();
    let partition = |number: u32| server.folder().join(format!("data/kept-{number}"));
    let (last, beyond) = (partition(2), partition(3));
    let is_made = eventually(|| {
        ask_for_topic(server.port(), "kept");
        last.is_dir()
    });
    assert!(is_made, "asking for it makes a topic of three partitions");
    server.kill();
    server.restart().unwrap();
    assert!(last.is_dir() && !beyond.exists());
}

#[test]
fn a_killed_consul_comes_back_on_its_port_with_its_settings() {
    if !is_there(Kind::Consul) {
        return;
    }
    let https = free_port().to_string();
    let settings = [("acl", r#"{ enabled = true default_policy = "deny" }"#), ("ports", "{ https = HTTPS }")];
    let settings = settings.map(|(name, value)| (name, value.replace("HTTPS", &https)));
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut server = Server::start_with(Kind::Consul, &settings).unwrap();
    let url = server.url().to_owned();
    server.restart().unwrap();
    assert_eq!(server.url(), url);
    let answer = http_get(server.port(), "/v1/agent/self");
    assert!(answer.starts_with("HTTP/1.0 403"), "access lists are on: {answer}");
}

#[test]
fn a_killed_redis_comes_back_with_its_keys() {
    if !is_there(Kind::Redis) {
        return;
    }
    let mut server = Server::start(Kind::Redis).unwrap();
    let ask = |server: &Server, command: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        write!(stream, "{command}\r\nQUIT\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask(&server, "SET kept 17").starts_with("+OK"));
    server.kill();
    server.restart().unwrap();
    assert!(ask(&server, "GET kept").starts_with("$2\r\n17\r\n"));
}

#[test]
fn a_killed_dtm_comes_back_with_its_transactions() {
    dtm_keeps_its_transactions(Kind::Dtm);
}

#[test]
fn a_killed_dtm_on_mysql_comes_back_with_its_transactions() {
    if is_there(Kind::Mariadb) && dev_servers::shared(Kind::Mariadb).is_ok() {
        dtm_keeps_its_transactions(Kind::DtmMysql);
    } else {
        let is_required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
        assert!(!is_required, "no shared mariadb runs and one is required");
    }
}

fn dtm_keeps_its_transactions(kind: Kind) {
    if !is_there(kind) {
        return;
    }
    let mut server = Server::start(kind).unwrap();
    let ask = |server: &Server, request: &str, body: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port() - 1)).unwrap();
        let length = body.len();
        write!(stream, "{request} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert_eq!(server.url(), format!("dtm://127.0.0.1:{}?http=127.0.0.1:{}", server.port(), server.port() - 1));
    let prepared = r#"{"gid":"kept","trans_type":"msg","steps":[],"payloads":[],"query_prepared":""}"#;
    let answer = ask(&server, "POST /api/dtmsvr/prepare", prepared);
    assert!(answer.contains("SUCCESS"), "{answer}");
    server.kill();
    server.restart().unwrap();
    let answer = ask(&server, "GET /api/dtmsvr/query?gid=kept", "");
    assert!(answer.contains(r#""status":"prepared""#), "{answer}");
}

/// DTM takes all interfaces by itself, without authentication.
#[test]
fn dtm_listens_on_loopback_alone() {
    if !is_there(Kind::Dtm) {
        return;
    }
    let server = Server::start(Kind::Dtm).unwrap();
    for port in [server.port(), server.port() - 1] {
        let listening = listening_addresses(port);
        assert_eq!(listening, ["0100007F"], "port {port}");
    }
}

/// The addresses, in hex and of this machine's byte order, on which somebody listens on the port.
fn listening_addresses(port: u16) -> Vec<String> {
    const LISTENS: &str = "0A";
    let end = format!(":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = fields.filter(|fields| fields[3] == LISTENS && fields[1].ends_with(&end));
    listening.map(|fields| fields[1].trim_end_matches(&end).to_owned()).collect()
}

#[test]
fn a_paused_server_answers_again_when_it_is_resumed() {
    if !is_there(Kind::Consul) {
        return;
    }
    let server = Server::start(Kind::Consul).unwrap();
    let state = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        status.lines().find(|line| line.starts_with("State:")).unwrap().to_owned()
    };
    server.pause();
    assert!(eventually(|| state().contains("stopped")), "{}", state());
    server.resume();
    assert!(http_get(server.port(), "/v1/status/leader").starts_with("HTTP/1.0 200"));
}

#[test]
fn a_server_leaves_nothing_behind() {
    if !is_there(Kind::Postgres) {
        return;
    }
    let server = Server::start(Kind::Postgres).unwrap();
    let (folder, pid) = (server.folder().to_owned(), server.pid());
    assert!(folder.is_dir());
    drop(server);
    assert!(!folder.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_server_that_does_not_start_says_the_last_lines_of_its_log() {
    if !is_there(Kind::Postgres) {
        return;
    }
    let error = Server::start_with(Kind::Postgres, &[("max_connections", "many")]).unwrap_err();
    assert!(error.starts_with("postgres ended while it started, exit status: 1; the last lines of "), "{error}");
    assert!(error.contains(r#"invalid value for parameter "max_connections": "many""#), "{error}");
}

/// Kafka's Metadata request, version 1: on it the broker makes a topic that is not there.
fn ask_for_topic(port: u16, name: &str) {
    let length = |count: usize| u16::try_from(count).unwrap().to_be_bytes();
    let body = [&[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 1][..], &length(name.len()), name.as_bytes()].concat();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&[&[0, 0], &length(body.len())[..], &body].concat()).unwrap();
    stream.read_exact(&mut [0; 8]).unwrap();
}

fn http_get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
