//! A client of HTTP/2 alone, which says just what a test wants it to.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, request};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tonic::Status;

use super::{
    peer::client_of,
    protos::peer::{HelloRequest, greeter_client::GreeterClient},
};
use crate::fixture::PATIENCE;

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: HeaderMap,
    /// The frames of gRPC messages, one after the other.
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    /// The status, wherever it stands.
    pub(crate) fn status(&self) -> Status {
        let headers = self.trailers.as_ref().unwrap_or(&self.head);
        Status::from_header_map(headers).expect("an answer has a status")
    }

    pub(crate) fn content_type(&self) -> &str {
        self.head["content-type"].to_str().unwrap()
    }

    /// The one message of the answer.
    pub(crate) fn message(&self) -> &[u8] {
        assert_eq!(&self.data[..5], frame_head(self.data.len() - 5), "{:?}", self.status());
        &self.data[5..]
    }
}

pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    [&frame_head(message.len()), message].concat()
}

fn frame_head(length: usize) -> [u8; 5] {
    let [a, b, c, d] = u32::try_from(length).unwrap().to_be_bytes();
    [0, a, b, c, d]
}

/// Sends the frames of one call and reads the whole answer; the client's side ends only where
/// `is_ended` says so.
pub(crate) async fn exchange(
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    data: &[Vec<u8>],
    is_ended: bool,
) -> Answer {
    timeout(PATIENCE, exchanging(address, path, headers, data, is_ended)).await.expect("the server does not answer")
}

async fn exchanging(address: &str, path: &str, headers: &[(&str, &str)], data: &[Vec<u8>], is_ended: bool) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (answer, mut sending) = client.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
    for (index, part) in data.iter().enumerate() {
        let is_last = index + 1 == data.len();
        sending.send_data(Bytes::copy_from_slice(part), is_last && is_ended).unwrap();
    }
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut data = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        let _ = body.flow_control().release_capacity(part.len());
        data.extend_from_slice(&part);
    }
    let trailers = body.trailers().await.unwrap();
    Answer { head: head.headers, data, trailers }
}

/// A call of one message and plain gRPC headers beside those given.
pub(crate) async fn unary(address: &str, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Answer {
    let has_content_type = headers.iter().any(|(name, _)| *name == "content-type");
    let mut all = vec![("te", "trailers")];
    if !has_content_type {
        all.push(("content-type", "application/grpc"));
    }
    all.extend_from_slice(headers);
    exchange(address, path, &all, &[frame(message)], true).await
}

/// What the Rust client makes of an answer with these headers, as its only ones or as trailers.
pub(crate) async fn status_from_a_server_that_says(headers: HeaderMap, in_trailers: bool) -> Status {
    let (address, _requests) = server_that_says(headers, in_trailers).await;
    let mut client = GreeterClient::new(client_of(&address).connect().await.unwrap());
    client.hello(HelloRequest::default()).await.unwrap_err()
}

/// A server that answers each call with these headers; where it is, and the calls it got.
pub(crate) async fn server_that_says(
    headers: HeaderMap,
    in_trailers: bool,
) -> (String, mpsc::UnboundedReceiver<request::Parts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut answering))) = connection.accept().await {
            let _ = sender.send(request.into_parts().0);
            let mut head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            if in_trailers {
                answering.send_response(head, false).unwrap().send_trailers(headers.clone()).unwrap();
            } else {
                head.headers_mut().extend(headers.clone());
                answering.send_response(head, true).unwrap();
            }
        }
    });
    (address, requests)
}
