//! A connection whose small writes wait for one another.
//!
//! HTTP/2 writes whatever is there each time that its task runs, which under load is a call or an
//! answer at a time: a system call, a segment and a wake-up of the peer for each. A task that lets the
//! others run first finds what they have written as well.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// With fewer calls in hand nobody is waited for: there may be nobody else.
const CALL_COUNT_MIN: usize = 4;
/// Larger writes are worth their system call.
const BYTES_MAX: usize = 8 << 10;

/// A stream that lets other tasks run once before a small write, while so many calls are in hand that
/// they may add to it.
#[derive(Debug)]
pub(crate) struct Gathered<S> {
    stream: S,
    calls_in_hand: Arc<AtomicUsize>,
    has_waited: bool,
}

impl<S> Gathered<S> {
    pub(crate) fn new(stream: S, calls_in_hand: Arc<AtomicUsize>) -> Self {
        Self { stream, calls_in_hand, has_waited: false }
    }

    /// Whether the write is to come again, for which its task is woken at once, behind all others.
    fn waits(&mut self, byte_count: usize, cx: &Context<'_>) -> bool {
        let is_alone = self.calls_in_hand.load(Ordering::Relaxed) < CALL_COUNT_MIN;
        self.has_waited = !self.has_waited && !is_alone && byte_count < BYTES_MAX;
        if self.has_waited {
            cx.waker().wake_by_ref();
        }
        self.has_waited
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.waits(data.len(), cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Of a message that is written in a piece of its own HTTP/2 takes nothing else in before it is
        // written: a wait would gather nothing, and each of them would pay for its own.
        let is_in_pieces = data.len() > 1;
        self.has_waited &= !is_in_pieces;
        if !is_in_pieces && self.waits(data.iter().map(|slice| slice.len()).sum(), cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn gathered(calls_in_hand: usize) -> (Gathered<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(1 << 20);
        (Gathered::new(near, Arc::new(AtomicUsize::new(calls_in_hand))), far)
    }

    #[tokio::test]
    async fn a_small_write_lets_others_run_once_while_several_calls_are_in_hand() {
        let (mut stream, mut far) = gathered(CALL_COUNT_MIN);
        for _ in 0..3 {
            let mut write = std::pin::pin!(stream.write(b"abc"));
            assert!(poll!(write.as_mut()).is_pending());
            assert!(poll!(write.as_mut()).is_ready(), "it waits once");
            let mut read = [0; 3];
            far.read_exact(&mut read).await.unwrap();
        }
        // It is woken by itself.
        stream.write_all(b"abc").await.unwrap();
    }

    #[tokio::test]
    async fn a_lone_call_and_a_large_write_wait_for_nobody() {
        let (mut stream, _far) = gathered(CALL_COUNT_MIN - 1);
        assert!(poll!(std::pin::pin!(stream.write(b"abc"))).is_ready());
        let (mut stream, _far) = gathered(CALL_COUNT_MIN);
        assert!(poll!(std::pin::pin!(stream.write(&[0; BYTES_MAX]))).is_ready());
    }

    #[tokio::test]
    async fn a_message_in_a_piece_of_its_own_waits_for_nobody() {
        let (mut stream, _far) = gathered(CALL_COUNT_MIN);
        let pieces = [IoSlice::new(b"head"), IoSlice::new(b"message")];
        for _ in 0..3 {
            assert!(poll!(std::pin::pin!(stream.write_vectored(&pieces))).is_ready());
        }
        let one = [IoSlice::new(b"head")];
        let mut write = std::pin::pin!(stream.write_vectored(&one));
        assert!(poll!(write.as_mut()).is_pending() && poll!(write.as_mut()).is_ready());
    }
}
