//! A proxy in front of an agent that writes down what it is asked.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

/// Forwards connections to an agent; ends with its drop.
pub(crate) struct Proxy {
    pub(crate) url: String,
    asked: Arc<Mutex<String>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// In front of the agent at `url`.
    pub(crate) async fn of(url: &str) -> Self {
        let agent = url.trim_start_matches("consul://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let asked = Arc::<Mutex<String>>::default();
        let told = asked.clone();
        let accepting = async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, agent.clone(), told.clone()));
            }
        };
        Self { url: format!("consul://{address}"), asked, _accepting: AbortOnDropHandle::new(tokio::spawn(accepting)) }
    }

    /// All that clients sent, heads and bodies.
    pub(crate) fn asked(&self) -> String {
        self.asked.lock().expect("no holder panics").clone()
    }

    /// How often this request was made, such as `GET /v1/status`.
    pub(crate) fn count(&self, request: &str) -> usize {
        self.asked().matches(request).count()
    }
}

async fn forward(client: TcpStream, agent: String, asked: Arc<Mutex<String>>) {
    // Where there is no agent, the client sees its connection end.
    let Ok(server) = TcpStream::connect(agent).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async move {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
            asked.lock().expect("no holder panics").push_str(&String::from_utf8_lossy(&bytes[..count]));
            if to_server.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        _ = copy(&mut from_server, &mut to_client) => {}
    }
}
