//! Connecting anew: what is refused once is no answer for ever, and callers share what one of them begins.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use micro_core::{ErrorKind, barrier::Prepared};
use micro_redis::RedisBarrier;
use micro_testkit::eventually;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::server::{PATIENCE, connected, outsider, own, patient};

/// How a connection is served. One that is not told of is [`Good`](Self::Good).
#[derive(Clone, Copy)]
enum Serving {
    /// As by Redis.
    Good,
    /// As by Redis, once the gate is open.
    Gated,
    /// As by Redis, and closed when a script comes.
    ClosedAtScript,
    /// Each command with this line.
    Refused(&'static str),
    /// The first command with this line, and closed.
    ClosedAfter(&'static str),
}

/// What speaks Redis's protocol and keeps no data.
struct Stub {
    address: String,
    gate: Semaphore,
    connection_count: AtomicUsize,
    script_count: AtomicUsize,
}

impl Stub {
    async fn start(servings: &[Serving]) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Arc::new(Self {
            address: listener.local_addr().unwrap().to_string(),
            gate: Semaphore::new(0),
            connection_count: AtomicUsize::new(0),
            script_count: AtomicUsize::new(0),
        });
        let servings = Mutex::new(VecDeque::from(servings.to_vec()));
        let accepting = stub.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.connection_count.fetch_add(1, SeqCst);
                let serving = servings.lock().unwrap().pop_front().unwrap_or(Serving::Good);
                let stub = accepting.clone();
                tokio::spawn(async move { stub.serve(stream, serving).await });
            }
        });
        stub
    }

    async fn serve(&self, stream: TcpStream, serving: Serving) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        while let Some(name) = command(&mut stream).await? {
            let is_script = name == "EVALSHA";
            self.script_count.fetch_add(usize::from(is_script), SeqCst);
            let answer = match serving {
                Serving::Refused(line) | Serving::ClosedAfter(line) => line,
                Serving::ClosedAtScript if is_script => return Ok(()),
                _ if is_script => ":0\r\n",
                _ => "+OK\r\n",
            };
            if matches!(serving, Serving::Gated) {
                let _open = self.gate.acquire().await;
            }
            stream.write_all(answer.as_bytes()).await?;
            if matches!(serving, Serving::ClosedAfter(_)) {
                // What is closed with something unread is reset, and the answer is lost with it.
                stream.get_mut().shutdown().await?;
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                return Ok(());
            }
        }
        Ok(())
    }

    fn counts(&self) -> (usize, usize) {
        (self.connection_count.load(SeqCst), self.script_count.load(SeqCst))
    }
}

/// The name of the next command, `None` at the end.
async fn command(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let Some(count) = number(stream).await? else { return Ok(None) };
    let mut name = None;
    for _ in 0..count {
        let Some(bytes) = number(stream).await? else { return Ok(None) };
        let mut word = vec![0; bytes + 2];
        stream.read_exact(&mut word).await?;
        name.get_or_insert_with(|| String::from_utf8_lossy(&word[..bytes]).into_owned());
    }
    Ok(name)
}

/// The number of a line `*2` or `$5`.
async fn number(stream: &mut BufReader<TcpStream>) -> io::Result<Option<usize>> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line.get(1..).and_then(|number| number.trim_end().parse().ok()))
}

async fn error_kind(barrier: &RedisBarrier) -> ErrorKind {
    barrier.prepared("order-1").await.unwrap_err().kind()
}

#[tokio::test]
async fn a_reconnect_that_is_refused_is_one_error_and_the_next_call_tries_anew() {
    const FULL: &str = "-ERR max number of clients reached\r\n";
    const BUSY: &str = "-BUSY Redis is busy running a script.\r\n";
    const HTTP: &str = "HTTP/1.1 400 Bad Request\r\n";
    for (user, database, serving, kind) in [
        (":sesame@", "", Serving::Refused(FULL), ErrorKind::Unauthenticated),
        (":sesame@", "", Serving::ClosedAfter(FULL), ErrorKind::Unavailable),
        ("", "/1", Serving::Refused(BUSY), ErrorKind::Unknown),
        ("", "", Serving::Refused(HTTP), ErrorKind::Unknown),
    ] {
        let stub = Stub::start(&[Serving::ClosedAtScript, serving]).await;
        let barrier = connected(&format!("redis://{user}{}{database}", stub.address)).await;
        assert_eq!(error_kind(&barrier).await, ErrorKind::Unavailable);
        assert_eq!(stub.counts(), (1, 1), "what may be done is not sent again");
        assert_eq!(error_kind(&barrier).await, kind);
        assert_eq!(barrier.prepared("order-1").await.unwrap(), Prepared::RolledBack);
        assert_eq!(stub.counts(), (3, 2));
    }
}

#[tokio::test]
async fn callers_at_the_same_time_share_one_reconnect_and_its_error() {
    const CALLERS: usize = 20;
    let refused = Serving::Refused("-ERR not now\r\n");
    let stub = Stub::start(&[Serving::ClosedAtScript, refused]).await;
    let barrier = connected(&format!("redis://:sesame@{}", stub.address)).await;
    assert_eq!(error_kind(&barrier).await, ErrorKind::Unavailable);
    let kinds = join_all((0..CALLERS).map(|_| error_kind(&barrier))).await;
    assert_eq!(kinds, [ErrorKind::Unauthenticated; CALLERS]);
    assert_eq!(stub.counts(), (2, 1));
    // A clone is of the same connection.
    let barriers = [barrier.clone(), barrier];
    let calls = (0..CALLERS).map(|number| barriers[number % 2].prepared("order-1"));
    for done in join_all(calls).await {
        assert_eq!(done.unwrap(), Prepared::RolledBack);
    }
    assert_eq!(stub.counts(), (3, 1 + CALLERS));
}

#[tokio::test]
async fn a_reconnect_that_takes_longer_than_a_request_comes_about() {
    let stub = Stub::start(&[Serving::ClosedAtScript, Serving::Gated]).await;
    let mut config = patient(&format!("redis://{}", stub.address));
    config.request_timeout = Duration::from_millis(500);
    let barrier = RedisBarrier::connect(config).await.unwrap();
    eventually(PATIENCE, "the second connection is asked for", async || {
        let late = error_kind(&barrier).await;
        (stub.counts().0 == 2).then_some(()).ok_or(late)
    })
    .await;
    assert_eq!(error_kind(&barrier).await, ErrorKind::DeadlineExceeded);
    stub.gate.add_permits(1);
    eventually(PATIENCE, "it is used", async || {
        barrier.prepared("order-1").await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(stub.counts().0, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_wrong_for_a_while_is_an_error_for_that_while() {
    let Some(server) = own(&[("requirepass", "sesame")]).await else { return };
    let url = format!("redis://:sesame@127.0.0.1:{}", server.port());
    let mut admin = outsider(&url).await;
    let barrier = connected(&url).await;
    assert_eq!(barrier.prepared("order-1").await.unwrap(), Prepared::RolledBack);
    for password in ["other", "sesame"] {
        let set = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(password).to_owned();
        let () = set.query_async(&mut admin).await.unwrap();
        if password == "other" {
            let kill = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").to_owned();
            let _killed: u64 = kill.query_async(&mut admin).await.unwrap();
            eventually(PATIENCE, "the password is refused", async || {
                let kind = barrier.prepared("order-1").await.err().map(|error| error.kind());
                (kind == Some(ErrorKind::Unauthenticated)).then_some(()).ok_or(kind)
            })
            .await;
        }
    }
    eventually(PATIENCE, "the password is taken", async || {
        barrier.prepared("order-1").await.map(drop).map_err(|error| error.to_string())
    })
    .await;
}
