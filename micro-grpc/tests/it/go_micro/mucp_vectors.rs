//! Messages in mucp between go-micro v4's own client and server, recorded: a Rust server answers the
//! client's side as the Go server did, and the Rust client understands the server's side.

use std::{fs, path::Path, time::Duration};

use micro_core::ErrorKind;
use micro_grpc::from_status;
use tokio::{io::AsyncWriteExt as _, net::TcpListener, sync::oneshot};
use tonic::Request;

use super::{
    http1::{self, Message},
    mucp::serve,
    mucp_client::client_of,
    protos::peer::{FailRequest, HelloRequest},
};

/// What each side said in one call.
#[derive(Debug, Default)]
struct Recorded {
    name: String,
    asked: Vec<u8>,
    answered: Vec<u8>,
}

fn recorded() -> Vec<Recorded> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/gomicro/mucp-http1.txt");
    let mut calls: Vec<Recorded> = Vec::new();
    let mut is_of_client = None;
    for line in fs::read_to_string(path).unwrap().lines() {
        if let Some(name) = line.strip_prefix("### ") {
            calls.push(Recorded { name: name.to_owned(), ..Recorded::default() });
        } else if let Some(side) = line.strip_prefix("--- ") {
            is_of_client = Some(side.starts_with("C>S"));
        } else if let Some(is_of_client) = is_of_client.take() {
            let call = calls.last_mut().unwrap();
            let side = if is_of_client { &mut call.asked } else { &mut call.answered };
            side.extend(unquoted(line));
        }
    }
    calls
}

/// The bytes of a text as Go quotes it.
fn unquoted(line: &str) -> Vec<u8> {
    let mut letters = line.strip_prefix('"').and_then(|line| line.strip_suffix('"')).unwrap().bytes();
    let mut bytes = Vec::new();
    while let Some(letter) = letters.next() {
        bytes.push(match letter {
            b'\\' => match letters.next().unwrap() {
                b'n' => b'\n',
                b'r' => b'\r',
                b'b' => 8,
                b'v' => 11,
                b'x' => {
                    let digits = [letters.next().unwrap(), letters.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                quoted @ (b'"' | b'\\') => quoted,
                other => panic!("\\{} is not known", char::from(other)),
            },
            letter => letter,
        });
    }
    bytes
}

#[tokio::test]
async fn recorded_messages_are_answered_to_the_byte_as_gos_server_did() {
    let (_running, address) = serve().await;
    let calls = recorded();
    assert_eq!(calls.len(), 3);
    for call in calls {
        let answer = http1::exchange(&address, &call.asked).await;
        let expected = http1::parse(&call.answered);
        // The order of headers says nothing.
        assert_eq!(answer, expected, "{}", call.name);
    }
}

/// A Go server that answers one message as recorded; where it is, and what it was asked.
async fn go_server(answer: Vec<u8>) -> (String, oneshot::Receiver<Message>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, asked) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let message = http1::read(&mut stream).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        let _ = sender.send(message);
    });
    (address, asked)
}

#[tokio::test]
async fn the_rust_client_posts_what_gos_recorded_client_posted_and_understands_its_answer() {
    let calls = recorded();
    for name in ["-ct application/protobuf", "-fail"] {
        let call = calls.iter().find(|call| call.name == name).unwrap();
        let (address, asked) = go_server(call.answered.clone()).await;
        let (mut client, _registered) = client_of(&address).await;
        if name == "-fail" {
            let fail = FailRequest { code: 404, detail: "nope".to_owned(), how: "micro".to_owned() };
            let error = from_status("greet", client.fail(with_metadata(fail)).await.unwrap_err());
            assert_eq!((error.kind(), error.message()), (ErrorKind::NotFound, "nope"));
            assert_eq!(error.context().next(), Some(("id", "go.micro.service.greeter")));
        } else {
            let reply = client.hello(with_metadata(HelloRequest { name: "micro".to_owned() })).await.unwrap();
            assert_eq!(reply.into_inner().greeting, "Hello micro");
        }
        let (mut asked, mut expected) = (asked.await.unwrap(), http1::parse(&call.asked));
        for message in [&mut asked, &mut expected] {
            let timeout: u64 = message.headers.remove("timeout").unwrap().parse().unwrap();
            assert!((1..=5_000_000_000).contains(&timeout), "{timeout}");
            message.headers.remove("host");
            message.headers.remove("user-agent");
            message.headers.remove("traceparent");
        }
        assert_eq!(asked, expected);
    }
}

fn with_metadata<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-peer-trace", "abc".parse().unwrap());
    request.set_timeout(Duration::from_secs(5));
    request
}
