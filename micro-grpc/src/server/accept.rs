//! Connections: accepted within limits, given time to begin their protocol, ended within the deadline.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use micro_core::{Health, HealthStatus};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{GrpcServerConfig, call::Calls};
use crate::{gathered::Gathered, go_micro::mucp::MucpCalls};

/// How every HTTP/2 connection begins. Source: RFC 9113 §3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The waits between tries to accept while the system has no file descriptor or memory for us.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(10);
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long a connection in mucp may be without a call. go-micro's clients keep one for a minute and
/// do not look whether it lives: the call after one that ended would fail. Source: `DefaultPoolTTL` of
/// go-micro's `client`.
const MUCP_IDLE_MAX: Duration = Duration::from_secs(90);
/// The least that hyper takes for the headers of a message.
const HEADER_BYTES_MIN: usize = 8 << 10;
/// For clients to close once they were told to go away and no call is in hand.
const GOODBYE: Duration = Duration::from_millis(500);

/// The running accept loop and its connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Acceptor {
    calls: Calls,
    tasks: TaskTracker,
    /// Takes no new connection or call; those in hand go on.
    stopping: CancellationToken,
    /// Ends everything.
    cut: CancellationToken,
}

impl Acceptor {
    pub(crate) fn start(
        listener: TcpListener,
        calls: Calls,
        protocol: Protocol,
        config: &GrpcServerConfig,
        health: Health,
        name: String,
    ) -> Self {
        let acceptor = Self {
            calls,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        let listening = Listening {
            listener,
            places: Arc::new(Semaphore::new(config.connection_count_max)),
            protocol,
            handshake_timeout: config.handshake_timeout,
            acceptor: acceptor.clone(),
            health,
            name,
        };
        acceptor.tasks.spawn(async move {
            let stopping = listening.acceptor.stopping.clone();
            stopping.run_until_cancelled(listening.accept()).await;
        });
        acceptor
    }

    pub(crate) fn in_flight_count(&self) -> usize {
        self.calls.in_flight_count()
    }

    /// Stops accepting, lets the calls in hand end, then ends every connection; at the deadline at
    /// the latest. Returns how many calls were cut.
    ///
    /// It does not wait for clients: one that never begins HTTP/2 or never answers would keep a
    /// graceful shutdown waiting for ever (hyper issue 4170).
    pub(crate) async fn drain(&self, deadline: Duration) -> usize {
        let deadline = Instant::now() + deadline;
        self.stopping.cancel();
        self.tasks.close();
        let mut cut_count = 0;
        tokio::select! {
            () = self.tasks.wait() => {}
            () = self.calls_in_hand_end() => {
                let goodbye = deadline.min(Instant::now() + GOODBYE);
                let _ = tokio::time::timeout_at(goodbye, self.tasks.wait()).await;
            }
            () = sleep_until(deadline) => cut_count = self.calls.in_flight_count(),
        }
        self.close().await;
        cut_count
    }

    pub(crate) async fn close(&self) {
        self.stopping.cancel();
        self.cut.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn calls_in_hand_end(&self) {
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        while self.calls.in_flight_count() > 0 {
            sleep(LOOK_EVERY).await;
        }
    }
}

struct Listening {
    listener: TcpListener,
    places: Arc<Semaphore>,
    protocol: Protocol,
    handshake_timeout: Duration,
    acceptor: Acceptor,
    health: Health,
    name: String,
}

impl Listening {
    async fn accept(&self) {
        let mut backoff = ACCEPT_BACKOFF;
        loop {
            let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if backoff > ACCEPT_BACKOFF {
                        self.health.set(&self.name, HealthStatus::Serving);
                        backoff = ACCEPT_BACKOFF;
                    }
                    let calls = self.acceptor.calls.of_connection(stream.local_addr().ok(), peer);
                    self.spawn(stream, calls, place);
                }
                Err(error) if is_of_the_connection(&error) => {
                    tracing::debug!(%error, "a connection ended before it was accepted");
                }
                // Out of file descriptors or memory: without a pause this loop would spin.
                Err(error) => {
                    tracing::warn!(%error, pause = ?backoff, "accepting connections");
                    self.health.set(&self.name, HealthStatus::NotServing(format!("accepting connections: {error}")));
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
                }
            }
        }
    }

    fn spawn(&self, stream: TcpStream, calls: Calls, place: OwnedSemaphorePermit) {
        let connection = Connection {
            calls,
            protocol: self.protocol.clone(),
            handshake_timeout: self.handshake_timeout,
            stopping: self.acceptor.stopping.clone(),
        };
        let cut = self.acceptor.cut.clone();
        self.acceptor.tasks.spawn(async move {
            let _place = place;
            cut.run_until_cancelled(connection.serve(stream)).await;
        });
    }
}

struct Connection {
    calls: Calls,
    protocol: Protocol,
    handshake_timeout: Duration,
    stopping: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        // An answer is written whole, so waiting to fill a packet only costs time.
        let _ = stream.set_nodelay(true);
        match &self.protocol {
            Protocol::Grpc(protocol) => self.serve_grpc(stream, protocol).await,
            Protocol::Mucp(protocol, message_bytes_max) => self.serve_mucp(stream, protocol, *message_bytes_max).await,
        }
    }

    async fn serve_grpc(&self, mut stream: TcpStream, protocol: &http2::Builder<TokioExecutor>) {
        if !self.begins(read_preface(&mut stream)).await {
            return;
        }
        let connection = protocol.serve_connection(
            TokioIo::new(Gathered::new(Begun { stream, given: 0 }, self.calls.in_hand())),
            self.calls.clone(),
        );
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
    }

    async fn serve_mucp(&self, stream: TcpStream, protocol: &http1::Builder, message_bytes_max: usize) {
        if !self.begins(async { stream.peek(&mut [0]).await.map(|_| ()) }).await {
            return;
        }
        let calls = MucpCalls::new(self.calls.clone(), message_bytes_max);
        let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), calls));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection in mucp ended");
        }
    }

    /// Whether a new connection's client says its first word in time.
    async fn begins(&self, beginning: impl Future<Output = io::Result<()>>) -> bool {
        match self.stopping.run_until_cancelled(timeout(self.handshake_timeout, beginning)).await {
            // Draining, and no call was made on it.
            None => return false,
            Some(Ok(Ok(()))) => return true,
            Some(Ok(Err(error))) => tracing::debug!(%error, "a connection did not begin its protocol"),
            Some(Err(_)) => tracing::debug!("a connection was silent for the handshake timeout"),
        }
        false
    }
}

/// What the connections of a listener speak.
#[derive(Clone)]
pub(crate) enum Protocol {
    Grpc(http2::Builder<TokioExecutor>),
    /// With the bytes that a message may have.
    Mucp(http1::Builder, usize),
}

impl Protocol {
    pub(crate) fn grpc(config: &GrpcServerConfig) -> Self {
        let mut protocol = http2::Builder::new(TokioExecutor::new());
        protocol
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.concurrent_stream_count_max)
            .max_header_list_size(config.header_bytes_max)
            .keep_alive_interval(config.keepalive_interval)
            .keep_alive_timeout(config.keepalive_timeout);
        Self::Grpc(protocol)
    }

    pub(crate) fn mucp(config: &GrpcServerConfig) -> Self {
        let mut protocol = http1::Builder::new();
        protocol
            .timer(TokioTimer::new())
            // It counts from the last answer on.
            .header_read_timeout(MUCP_IDLE_MAX)
            .max_buf_size((config.header_bytes_max as usize).max(HEADER_BYTES_MIN))
            // As Go writes them, for those who read both.
            .auto_date_header(false)
            .title_case_headers(true);
        Self::Mucp(protocol, config.message_bytes_max)
    }
}

async fn read_preface(stream: &mut TcpStream) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    if preface == *PREFACE {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak HTTP/2"))
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A stream whose preface was read: gives it once more, for hyper wants to read it itself.
struct Begun {
    stream: TcpStream,
    given: usize,
}

impl AsyncRead for Begun {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = &PREFACE[self.given..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.given += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
