//! The guide's service is a program that runs, set up as a Go service is.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::{Duration, Instant},
};

/// Killed when the test ends, however it ends.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_guide_shows_the_program_to_the_letter() {
    let guide = include_str!("../../../docs/from-go-micro.md");
    let program = include_str!("../src/bin/from_go_micro.rs");
    let shown = guide.split("```").filter_map(|block| block.strip_prefix("rust,ignore\n")).collect::<Vec<_>>();
    assert_eq!(shown.len(), 1);
    assert!(program.ends_with(shown[0]), "the guide shows:\n{}", shown[0]);
}

#[test]
fn the_guides_service_listens_where_go_micros_variable_says_and_answers_by_gos_name() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_from_go_micro"));
    command.env("MICRO_REGISTRY", "memory").env("MICRO_SERVER_ADDRESS", &address).env("MICRO_SERVER", "grpc");
    let _serving = Serving(command.spawn().unwrap());
    let until = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(&address).is_err() {
        assert!(Instant::now() < until, "it does not listen");
        std::thread::yield_now();
    }
    let registry = format!("static:go.micro.service.greeter={address}");
    let arguments = ["call", "--registry", &registry, "--name", "go.micro.service.greeter", "--timeout", "30"];
    let output = Command::new(env!("CARGO_BIN_EXE_hello")).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("Hello John\n"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
