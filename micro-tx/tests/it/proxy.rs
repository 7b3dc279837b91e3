//! A TCP proxy before a server that counts round trips, keeps answers back, and goes silent.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// Counts how often a client sent something after the server had spoken.
pub(crate) struct Proxy {
    port: u16,
    round_trips: Arc<AtomicU64>,
    is_cutting: Arc<AtomicBool>,
    silence: Arc<Notify>,
}

impl Proxy {
    /// Before the server at `address`; it ends with its test's runtime.
    pub(crate) async fn before(address: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let round_trips = Arc::<AtomicU64>::default();
        let is_cutting = Arc::<AtomicBool>::default();
        let silence = Arc::<Notify>::default();
        let (count, cuts, silenced) = (round_trips.clone(), is_cutting.clone(), silence.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut server = TcpStream::connect(&address).await.unwrap();
                let (count, cuts, silenced) = (count.clone(), cuts.clone(), silenced.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(&mut client, &mut server, count, cuts) => {}
                        // Both stay open, as where a machine lost its power.
                        () = silenced.notified() => std::future::pending().await,
                    }
                });
            }
        });
        Self { port, round_trips, is_cutting, silence }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether connections end when the server answers, in the answer's place.
    pub(crate) fn cut_answers(&self, is_cutting: bool) {
        self.is_cutting.store(is_cutting, Ordering::SeqCst);
    }

    /// From now on nothing comes through the connections that there are, and none of them ends.
    pub(crate) fn silence(&self) {
        self.silence.notify_waiters();
    }

    pub(crate) fn round_trip_count(&self) -> u64 {
        self.round_trips.load(Ordering::SeqCst)
    }
}

async fn carry(
    client: &mut TcpStream,
    server: &mut TcpStream,
    round_trips: Arc<AtomicU64>,
    is_cutting: Arc<AtomicBool>,
) {
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    let mut has_server_spoken = true;
    loop {
        tokio::select! {
            count = client.read(&mut asked) => {
                let Ok(count @ 1..) = count else { return };
                if std::mem::take(&mut has_server_spoken) {
                    round_trips.fetch_add(1, Ordering::SeqCst);
                }
                if server.write_all(&asked[..count]).await.is_err() {
                    return;
                }
            }
            count = server.read(&mut answered) => {
                let Ok(count @ 1..) = count else { return };
                has_server_spoken = true;
                if is_cutting.load(Ordering::SeqCst) {
                    return;
                }
                if client.write_all(&answered[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
