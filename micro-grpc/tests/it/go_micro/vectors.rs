//! Calls between go-micro v4's own client and server, recorded frame by frame: a Rust server answers
//! the client's side as the Go server did, and the Rust client understands the server's side.

use std::{fs, path::Path};

use http::{HeaderMap, HeaderName, HeaderValue};
use micro_core::ErrorKind;
use micro_grpc::{StatusCompat, from_status};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{
    greeter::{SERVICE, detail_types, serve},
    peer::{self, call},
    protos::peer::{HelloRequest, greeter_client::GreeterClient},
    raw::{Answer, exchange, server_that_says},
};

/// One recorded call.
#[derive(Debug, Default)]
struct Recorded {
    path: String,
    headers: Vec<(String, String)>,
    data: Vec<Vec<u8>>,
    is_ended: bool,
    answer: Answered,
}

/// Head and trailers together, for none of them says the same twice.
#[derive(Debug, Default)]
struct Answered {
    headers: Vec<(String, String)>,
    data: Vec<u8>,
}

impl Answered {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    fn status(&self) -> Status {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            if name.starts_with("grpc-") {
                let name: HeaderName = name.parse().unwrap();
                headers.insert(name, value.parse().unwrap());
            }
        }
        Status::from_header_map(&headers).unwrap()
    }
}

fn read(name: &str) -> Recorded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/gomicro").join(name);
    let text = fs::read_to_string(path).unwrap();
    let mut recorded = Recorded::default();
    let mut is_of_client = true;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("C>S ").or_else(|| line.strip_prefix("S>C ")) {
            is_of_client = line.starts_with('C');
            match rest.strip_prefix("    ") {
                Some(header) => recorded.add_header(header, is_of_client),
                None if rest.starts_with("DATA") && is_of_client => {
                    recorded.data.push(Vec::new());
                    recorded.is_ended |= rest.contains("end_stream=true");
                }
                None => {}
            }
        } else if let Some(bytes) = dumped(line) {
            match is_of_client {
                true => recorded.data.last_mut().unwrap().extend(bytes),
                false => recorded.answer.data.extend(bytes),
            }
        }
    }
    assert!(!recorded.path.is_empty() && !recorded.data.is_empty(), "{name}: {recorded:?}");
    assert!(!recorded.answer.headers.is_empty(), "{name}");
    recorded
}

impl Recorded {
    fn add_header(&mut self, header: &str, is_of_client: bool) {
        // A pseudo header begins with the colon that others have after their name.
        let end = header[1..].find(':').unwrap() + 1;
        let (name, value) = (header[..end].to_owned(), header[end + 1..].trim_start().to_owned());
        match (is_of_client, name.as_str()) {
            (true, ":path") => self.path = value,
            (true, name) if name.starts_with(':') => {}
            (true, _) => self.headers.push((name, value)),
            (false, _) => self.answer.headers.push((name, value)),
        }
    }

    async fn replay(&self, address: &str) -> Answer {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        exchange(address, &self.path, &headers, &self.data, self.is_ended).await
    }
}

/// The bytes in a line of `hexdump -C`.
fn dumped(line: &str) -> Option<Vec<u8>> {
    let (offset, rest) = line.split_at_checked(8)?;
    u32::from_str_radix(offset, 16).ok()?;
    let (hex, _) = rest.split_once('|')?;
    Some(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect())
}

fn assert_same(name: &str, answer: &Answer, recorded: &Answered) {
    let (ours, theirs) = (answer.status(), recorded.status());
    assert_eq!(answer.content_type(), recorded.header("content-type"), "{name}");
    assert_eq!(answer.data, recorded.data, "{name}");
    assert_eq!((ours.code(), ours.message()), (theirs.code(), theirs.message()), "{name}");
    assert_eq!(ours.details(), theirs.details(), "{name}");
}

#[tokio::test]
async fn recorded_calls_are_answered_as_gos_server_did() {
    for (status_compat, names) in [
        (
            StatusCompat::Real,
            &[
                "h2-unary-proto.txt",
                "h2-unary-json.txt",
                "h2-unary-grpcjson.txt",
                "h2-stream.txt",
                "h2-unknown-method.txt",
                "h2-fail-micro404.txt",
                "h2-fail-micro409.txt",
                "h2-fail-micro418.txt",
            ][..],
        ),
        (
            StatusCompat::V4,
            &[
                "h2-unary-proto.txt",
                "h2-stream.txt",
                "h2-unknown-method.txt",
                "h2-fail-micro404.txt",
                "h2-fail-micro418.txt",
                "h2-fail-plain.txt",
                "h2-fail-status.txt",
            ][..],
        ),
    ] {
        let (_running, address) = serve(status_compat).await;
        for name in names {
            let recorded = read(name);
            assert_same(name, &recorded.replay(&address).await, &recorded.answer);
        }
    }
}

/// The panic's own text stays in our log, where Go sends it to the caller.
#[tokio::test]
async fn a_recorded_panic_is_answered_as_gos_server_did_but_for_its_text() {
    let recorded = read("h2-fail-panic.txt");
    let (_running, address) = serve(StatusCompat::Real).await;
    let (ours, theirs) = (recorded.replay(&address).await.status(), recorded.answer.status());
    assert_eq!(ours.code(), theirs.code());
    assert_eq!(detail_types(ours.details()), detail_types(theirs.details()));
    let [ours, theirs] = [ours, theirs].map(|status| serde_json::from_str::<Value>(status.message()).unwrap());
    for key in ["id", "code", "status"] {
        assert_eq!(ours[key], theirs[key]);
    }
    assert_eq!(ours["detail"], "the handler panicked");
}

#[test]
fn recorded_failures_are_understood() {
    for (name, kind, text) in [
        ("h2-fail-micro404.txt", ErrorKind::NotFound, "greet: no such thing (id=go.micro.service.greeter)"),
        ("h2-fail-micro409.txt", ErrorKind::AlreadyExists, "greet: no such thing (id=go.micro.service.greeter)"),
        ("h2-fail-micro418.txt", ErrorKind::Unknown, "greet: no such thing (id=go.micro.service.greeter)"),
        ("h2-fail-panic.txt", ErrorKind::Internal, "greet: panic recovered: no such thing (id=go.micro.server)"),
        ("h2-fail-plain.txt", ErrorKind::Unknown, "greet: no such thing"),
        ("h2-fail-status.txt", ErrorKind::FailedPrecondition, "greet: no such thing"),
        ("h2-unknown-method.txt", ErrorKind::Unimplemented, "greet: unknown service Greeter.Nope"),
    ] {
        let error = from_status("greet", read(name).answer.status());
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, text), "{name}");
    }
    for name in ["h2-unary-proto.txt", "h2-unary-json.txt", "h2-stream.txt"] {
        assert_eq!(read(name).answer.status().code(), Code::Ok, "{name}");
    }
}

#[tokio::test]
async fn the_rust_client_says_what_gos_recorded_client_said() {
    let recorded = read("h2-unary-proto.txt");
    let failure = [("grpc-status", "5")].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let (address, mut requests) =
        server_that_says(HeaderMap::from_iter::<[(HeaderName, HeaderValue); 1]>(failure), false).await;
    let mut client = GreeterClient::new(peer::client_of(&address).go_micro().connect().await.unwrap());
    let mut request = tonic::Request::new(HelloRequest { name: "micro".to_owned() });
    request.metadata_mut().insert("x-peer-trace", "abc".parse().unwrap());
    request.set_timeout(std::time::Duration::from_secs(30));
    client.hello(request).await.unwrap_err();

    let said = requests.recv().await.unwrap();
    assert_eq!(said.uri.path(), recorded.path);
    for (name, value) in recorded.headers.iter().filter(|(name, _)| name != "user-agent") {
        let ours = said.headers.get(name).unwrap_or_else(|| panic!("{name} is missing: {:?}", said.headers));
        if name != "grpc-timeout" {
            assert_eq!(ours, value, "{name}");
        }
    }
}

/// What the recorded client printed before it ended with a panic, at a foreign detail that stood
/// first: a Rust server never sends one there.
#[tokio::test]
async fn gos_client_survives_the_foreign_detail_that_ended_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/gomicro/foreign-detail.txt");
    let recorded = fs::read_to_string(path).unwrap();
    assert!(recorded.contains("panic: interface conversion: *errdetails.ErrorInfo is not error"));
    let printed = recorded.lines().find_map(|line| line.strip_prefix("*errors.Error ")).unwrap();
    let mut expected: Value = serde_json::from_str(printed).unwrap();
    expected["id"] = SERVICE.into();

    if peer::peer().await.is_none() {
        return;
    }
    let (_running, address) = serve(StatusCompat::Real).await;
    let fail = json!({"how": "foreign", "code": 9, "detail": "not now"}).to_string();
    let said = call(&address, &["--endpoint", "Greeter.Fail", "--message", &fail]).await;
    assert_eq!(said[0]["error"], expected);
}
