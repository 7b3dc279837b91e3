//! How it is found that the peer of a silent connection is gone.

use std::{io, time::Duration};

use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::GrpcClientConfig;

/// The kernel counts in whole seconds, up to this. Source: Linux, `MAX_TCP_KEEPIDLE`.
const PROBE_SECONDS_MAX: u64 = 32_767;

#[derive(Clone, Copy)]
pub(super) enum Keepalive {
    /// By pings of HTTP/2, which a peer's process answers.
    Pings { interval: Duration, timeout: Duration },
    /// By probes of TCP, which its kernel answers and no policy of gRPC counts.
    Probes { interval: Duration, timeout: Duration },
}

impl Keepalive {
    pub(super) fn new(config: &GrpcClientConfig) -> Self {
        let (interval, timeout) = (config.keepalive_interval, config.keepalive_timeout);
        if config.sends_pings.unwrap_or(true) {
            return Self::Pings { interval, timeout };
        }
        Self::Probes { interval: whole_seconds(interval), timeout: whole_seconds(timeout) }
    }

    /// Sets what HTTP/2 has to do.
    pub(super) fn set_protocol(self, protocol: &mut http2::Builder<TokioExecutor>) {
        if let Self::Pings { interval, timeout } = self {
            protocol.keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(true);
        }
    }

    /// Sets what TCP has to do.
    pub(super) fn set_stream(self, stream: &TcpStream) -> io::Result<()> {
        let Self::Probes { interval, timeout } = self else { return Ok(()) };
        let probes = TcpKeepalive::new().with_time(interval);
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "windows"))]
        let probes = probes.with_interval(timeout).with_retries(1);
        let socket = SockRef::from(stream);
        socket.set_tcp_keepalive(&probes)?;
        // No probe is sent while something sent waits to be acknowledged: that is given up after as long.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_user_timeout(Some(interval + timeout))?;
        Ok(())
    }
}

fn whole_seconds(time: Duration) -> Duration {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    Duration::from_secs(seconds.clamp(1, PROBE_SECONDS_MAX))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn stream_with(config: &GrpcClientConfig) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        Keepalive::new(config).set_stream(&stream).unwrap();
        stream
    }

    #[tokio::test]
    async fn without_pings_the_kernel_asks_and_gives_up_at_the_same_times() {
        let mut config = GrpcClientConfig { sends_pings: Some(false), ..GrpcClientConfig::default() };
        let stream = stream_with(&config).await;
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(15)));
        config.sends_pings = None;
        let stream = stream_with(&config).await;
        assert!(!SockRef::from(&stream).keepalive().unwrap(), "HTTP/2 asks");
    }

    #[tokio::test]
    async fn times_that_the_kernel_does_not_know_are_the_nearest_that_it_does() {
        let longest = Duration::from_secs(32_767);
        for (set, kernels) in [
            (Duration::ZERO, Duration::from_secs(1)),
            (Duration::from_millis(1_001), Duration::from_secs(2)),
            (Duration::MAX, longest),
        ] {
            let (keepalive_interval, keepalive_timeout) = (set, set);
            let config = GrpcClientConfig {
                keepalive_interval,
                keepalive_timeout,
                sends_pings: Some(false),
                ..GrpcClientConfig::default()
            };
            let stream = stream_with(&config).await;
            let socket = SockRef::from(&stream);
            assert_eq!(socket.tcp_keepalive_time().unwrap(), kernels);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(2 * kernels));
        }
    }
}
