//! Silence between a Rust client and go-micro v4's server, whose gRPC allows few pings.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use micro_core::Metadata;
use micro_grpc::{GrpcClientConfig, RawGrpcClient};
use prost::Message;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tonic::Code;

use super::{
    peer::{GoServer, client_of},
    protos::peer::{HelloReply, HelloRequest, WaitRequest, greeter_client::GreeterClient},
};
use crate::fixture::{PATIENCE, client_config, eventually};

/// The intervals in it are twice those after which Go closes a connection with pings.
const SILENCE: Duration = Duration::from_secs(8);

/// One connection, on which a peer is asked each second and has all time to answer.
fn each_second() -> GrpcClientConfig {
    let mut config = client_config();
    (config.keepalive_interval, config.keepalive_timeout) = (Duration::from_secs(1), PATIENCE);
    config.connection_count = 1;
    config
}

fn wait_for(time: Duration) -> WaitRequest {
    WaitRequest { wait_ms: time.as_millis().try_into().unwrap() }
}

/// Passes connections on to a server, and counts them.
struct Between {
    address: String,
    begun_count: Arc<AtomicUsize>,
    ended_count: Arc<AtomicUsize>,
}

impl Between {
    async fn to(server: &GoServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (begun_count, ended_count) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (begun, ended, server) = (begun_count.clone(), ended_count.clone(), server.address.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                begun.fetch_add(1, Ordering::SeqCst);
                let (server, ended) = (server.clone(), ended.clone());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, begun_count, ended_count }
    }

    /// How many connections began, and how many of them ended.
    fn counts(&self) -> (usize, usize) {
        (self.begun_count.load(Ordering::SeqCst), self.ended_count.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn gos_server_ends_a_connection_with_many_pings_and_the_silent_call_on_it() {
    let Some(server) = GoServer::start().await else { return };
    let between = Between::to(&server).await;
    let mut client = GreeterClient::new(client_of(&between.address).config(each_second()).connect().await.unwrap());
    let status = client.wait(wait_for(PATIENCE - Duration::from_secs(5))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    eventually(|| async { between.counts() == (1, 1) }).await;
    client.hello(HelloRequest::default()).await.unwrap();
    eventually(|| async { between.counts() == (2, 2) }).await;
}

#[tokio::test]
async fn a_call_as_go_micro_outlives_silence_and_its_idle_connection_too() {
    let Some(server) = GoServer::start().await else { return };
    let between = Between::to(&server).await;
    let client = client_of(&between.address).go_micro().config(each_second());
    let mut client = GreeterClient::new(client.connect().await.unwrap());
    assert_eq!(client.wait(wait_for(SILENCE)).await.unwrap().into_inner().greeting, "waited");
    sleep(SILENCE).await;
    client.hello(HelloRequest::default()).await.unwrap();
    assert_eq!(between.counts(), (1, 0));
}

#[tokio::test]
async fn a_call_by_address_outlives_silence_and_its_idle_connection_too() {
    let Some(server) = GoServer::start().await else { return };
    let between = Between::to(&server).await;
    let client = RawGrpcClient::new(each_second());
    let call = async |path: &str, message: Bytes| {
        let answer = client.call(&between.address, path, message, &Metadata::new(), PATIENCE).await.unwrap();
        HelloReply::decode(answer).unwrap().greeting
    };
    assert_eq!(call("/peer.Greeter/Wait", wait_for(SILENCE).encode_to_vec().into()).await, "waited");
    sleep(SILENCE).await;
    assert_eq!(call("/peer.Greeter/Hello", Bytes::new()).await, "Hello ");
    assert_eq!(between.counts(), (1, 0));
}
