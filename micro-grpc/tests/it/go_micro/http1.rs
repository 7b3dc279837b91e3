//! HTTP/1.1 byte for byte: a client that says just what a test wants it to.

use std::collections::BTreeMap;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::fixture::PATIENCE;

/// One message as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// `POST / HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub(super) first_line: String,
    /// By lower-case names; each test's headers come once.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Message {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// go-micro's error in the head, or an empty one.
    pub(super) fn error(&self) -> serde_json::Value {
        serde_json::from_str(self.header("micro-error")).unwrap_or_default()
    }
}

/// A message in mucp as its clients post it.
pub(super) fn post(headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

/// Sends bytes on a connection of their own and reads one answer.
pub(super) async fn exchange(address: &str, bytes: &[u8]) -> Message {
    let mut stream = TcpStream::connect(address).await.unwrap();
    exchange_on(&mut stream, bytes).await
}

pub(super) async fn exchange_on(stream: &mut TcpStream, bytes: &[u8]) -> Message {
    let exchanging = async {
        stream.write_all(bytes).await.unwrap();
        read(stream).await.expect("an answer")
    };
    timeout(PATIENCE, exchanging).await.expect("the server does not answer")
}

/// The next message; `None` where the connection ends before one.
pub(super) async fn read(stream: &mut TcpStream) -> Option<Message> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let mut message = head_of(&head);
    let length = message.header("content-length").parse().unwrap_or(0);
    message.body = vec![0; length];
    stream.read_exact(&mut message.body).await.ok()?;
    Some(message)
}

/// Whole bytes as a message.
pub(super) fn parse(bytes: &[u8]) -> Message {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let mut message = head_of(&bytes[..end]);
    message.body = bytes[end..].to_vec();
    message
}

fn head_of(head: &[u8]) -> Message {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.trim_end().split("\r\n");
    let first_line = lines.next().unwrap().to_owned();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| (line.trim_end_matches(':'), ""));
        (name.to_ascii_lowercase(), value.to_owned())
    });
    Message { first_line, headers: headers.collect(), body: Vec::new() }
}
