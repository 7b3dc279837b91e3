//! The body of a call that may be sent again: one message kept whole, or a stream passed on.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// The bytes of gRPC's prefix of a message: a flag and the length.
/// Source: "Length-Prefixed-Message" in
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
const PREFIX_BYTES: usize = 5;

/// The body that a retry layer sends.
#[derive(Debug)]
pub struct RetryBody<B: Body> {
    /// What was read already.
    read: Frames<B::Error>,
    /// The rest; `None` where everything was read.
    rest: Option<B>,
}

/// Frames in order. A message is nearly always one, which allocates nothing here.
#[derive(Debug)]
struct Frames<E> {
    first: Option<Result<Frame<Bytes>, E>>,
    more: VecDeque<Result<Frame<Bytes>, E>>,
}

impl<E> Frames<E> {
    fn new() -> Self {
        Self { first: None, more: VecDeque::new() }
    }

    fn push(&mut self, frame: Result<Frame<Bytes>, E>) {
        match &self.first {
            None if self.more.is_empty() => self.first = Some(frame),
            _ => self.more.push_back(frame),
        }
    }

    fn pop(&mut self) -> Option<Result<Frame<Bytes>, E>> {
        self.first.take().or_else(|| self.more.pop_front())
    }

    fn iter(&self) -> impl Iterator<Item = &Result<Frame<Bytes>, E>> {
        self.first.iter().chain(&self.more)
    }
}

/// A body that was read whole: one message.
#[derive(Clone, Debug)]
pub struct Replay {
    first: Bytes,
    more: Vec<Bytes>,
    trailers: Option<Box<HeaderMap>>,
}

impl<B> RetryBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Reads a body that is one message of at most `bytes_max` bytes; any other one is given back
    /// as it is. It never waits: what is not there at once may be a stream whose next message
    /// depends on an answer.
    pub(super) async fn buffer(mut body: B, bytes_max: usize) -> Result<Replay, Self> {
        let mut read = Frames::new();
        let is_whole = poll_fn(|context| Poll::Ready(read_at_once(&mut body, context, &mut read, bytes_max))).await;
        match Replay::of(is_whole, &read) {
            Some(replay) => Ok(replay),
            None => Err(Self { read, rest: (!is_whole).then_some(body) }),
        }
    }
}

/// Reads until the body's end (true), until it waits, fails or is too large (false).
fn read_at_once<B>(body: &mut B, context: &mut Context<'_>, read: &mut Frames<B::Error>, bytes_max: usize) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut byte_count = 0;
    while byte_count <= bytes_max {
        match Pin::new(&mut *body).poll_frame(context) {
            Poll::Ready(None) => return true,
            Poll::Ready(Some(frame)) => {
                let is_failed = frame.is_err();
                byte_count += frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                read.push(frame);
                if is_failed {
                    return false;
                }
            }
            Poll::Pending => return false,
        }
    }
    false
}

impl Replay {
    /// `None` where the frames are not exactly one message.
    fn of<E>(is_whole: bool, frames: &Frames<E>) -> Option<Self> {
        let mut replay = Self { first: Bytes::new(), more: Vec::new(), trailers: None };
        for frame in frames.iter() {
            let frame = frame.as_ref().ok()?;
            match frame.data_ref() {
                Some(data) if replay.first.is_empty() => replay.first = data.clone(),
                Some(data) => replay.more.push(data.clone()),
                None => replay.trailers = frame.trailers_ref().cloned().map(Box::new),
            }
        }
        (is_whole && replay.is_one_message()).then_some(replay)
    }

    fn is_one_message(&self) -> bool {
        let data = || std::iter::once(&self.first).chain(&self.more);
        let byte_count: usize = data().map(Bytes::len).sum();
        if byte_count < PREFIX_BYTES {
            return false;
        }
        let mut prefix = [0; PREFIX_BYTES];
        prefix.iter_mut().zip(data().flatten()).for_each(|(to, from)| *to = *from);
        let [_compressed, length @ ..] = prefix;
        byte_count - PREFIX_BYTES == u32::from_be_bytes(length) as usize
    }
}

impl<B: Body<Data = Bytes>> From<Replay> for RetryBody<B> {
    fn from(replay: Replay) -> Self {
        let mut read = Frames::new();
        read.push(Ok(Frame::data(replay.first)));
        replay.more.into_iter().for_each(|data| read.push(Ok(Frame::data(data))));
        if let Some(trailers) = replay.trailers {
            read.push(Ok(Frame::trailers(*trailers)));
        }
        Self { read, rest: None }
    }
}

impl<B> Body for RetryBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        match (this.read.pop(), &mut this.rest) {
            (Some(frame), _) => Poll::Ready(Some(frame)),
            (None, Some(rest)) => Pin::new(rest).poll_frame(context),
            (None, None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.iter().next().is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.iter().filter_map(|frame| frame.as_ref().ok().and_then(Frame::data_ref));
        let read_bytes: u64 = read.map(|data| data.len() as u64).sum();
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read_bytes));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read_bytes)) {
            hint.set_upper(upper);
        }
        hint
    }
}
