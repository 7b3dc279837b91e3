//! `serve` and `call` as their users run them: two processes over loopback.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hello");

/// A serving process, killed when the test ends, however it ends.
struct Serving {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Serving {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(PROGRAM).arg("serve").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn call(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(["call", "--timeout", "30"]).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_caller_is_greeted_as_often_as_it_calls() {
    let mut serving = Serving::start(&[]);
    let line = serving.line();
    let address = line.strip_prefix("hello.Greeter serves at ").unwrap();
    let registry = format!("static:hello.Greeter={address}");
    assert!(serving.line().ends_with(&format!("--registry {registry}")));

    let output = call(&["--registry", &registry, "--count", "3"]);
    assert!(output.status.success(), "{output:?}");
    let greeting = "我们的口号是 ：\"John\"\n";
    assert_eq!(text(&output.stdout), format!("{greeting}{greeting}{greeting}3 calls, 0 failures\n"));
}

#[test]
fn a_service_goes_by_the_name_it_is_given() {
    let mut serving = Serving::start(&["--name", "other", "--registry", "static:other=127.0.0.1:0"]);
    let line = serving.line();
    let address = line.strip_prefix("other serves at ").unwrap();

    let output = call(&["--registry", &format!("static:other={address}"), "--name", "other"]);
    assert_eq!(text(&output.stdout).lines().last(), Some("1 calls, 0 failures"));
}

#[test]
fn failures_are_counted_and_told() {
    // Bound and not listening any more: nobody is there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = call(&["--registry", &format!("static:hello.Greeter={address}"), "--count", "2"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "2 calls, 2 failures\n");
    assert!(text(&output.stderr).contains("the instance cannot be reached"), "{output:?}");
}

#[test]
fn calling_through_memory_says_why_nothing_can_be_there() {
    let output = call(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("expected static:NAME=HOST:PORT"), "{output:?}");
}

#[test]
fn what_cannot_be_is_one_line_without_the_secret_in_it() {
    for (job, arguments, expected) in [
        ("call", ["--registry", "zookeeper://:canary-7f3a@127.0.0.1:2181"], "scheme=zookeeper"),
        ("call", ["--registry", "static:hello.Greeter=app:canary-7f3a@127.0.0.1:1"], "expected name=host:port"),
        ("serve", ["--registry", "canary-7f3a"], "not a URL"),
        ("serve", ["--address", "nonsense"], "expected a free host:port"),
        ("serve", ["--name", ""], "the service name is empty"),
    ] {
        let output = Command::new(PROGRAM).arg(job).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains(expected) && said.lines().count() == 1, "{said}");
        assert!(!said.contains("canary-7f3a") && output.stdout.is_empty(), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn a_server_that_is_told_to_end_ends_well() {
    let mut serving = Serving::start(&["--registry", "static:hello.Greeter=127.0.0.1:0"]);
    serving.line();
    let told = Command::new("kill").arg(serving.process.id().to_string()).status().unwrap();
    assert!(told.success());
    assert!(serving.process.wait().unwrap().success());
}
