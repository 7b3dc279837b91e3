//! Bodies as they pass: the size of each gRPC message is checked, and what breaks has a status.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Status;

/// Reads the length prefixes of the gRPC messages that pass by.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>: a byte of flags, four
/// of length, the message.
#[derive(Debug)]
pub(crate) struct MessageSizes {
    message_bytes_max: usize,
    prefix: [u8; PREFIX],
    prefix_count: usize,
    message_rest: usize,
}

const PREFIX: usize = 5;

impl MessageSizes {
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self { message_bytes_max, prefix: [0; PREFIX], prefix_count: 0, message_rest: 0 }
    }

    /// Looks at the next bytes; refuses at the prefix of a message that is too long.
    pub(crate) fn pass(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            if self.message_rest > 0 {
                let skipped = self.message_rest.min(data.len());
                self.message_rest -= skipped;
                data = &data[skipped..];
                continue;
            }
            self.prefix[self.prefix_count] = data[0];
            self.prefix_count += 1;
            data = &data[1..];
            if self.prefix_count == PREFIX {
                self.prefix_count = 0;
                let [_, length @ ..] = self.prefix;
                self.message_rest = u32::from_be_bytes(length) as usize;
                self.check()?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Status> {
        if self.message_rest <= self.message_bytes_max {
            return Ok(());
        }
        // tonic's code for it. It is a permanent one: the same message will not fit the next time.
        Err(Status::out_of_range(format!(
            "the message has {} bytes, the limit is {}",
            self.message_rest, self.message_bytes_max
        )))
    }
}

/// A request as the server reads it: a message that is too long is an error of the body, which
/// tonic answers, and the connection lives on.
pub(crate) struct Received<B> {
    body: B,
    sizes: MessageSizes,
}

impl<B> Received<B> {
    pub(crate) fn new(body: B, message_bytes_max: usize) -> Self {
        Self { body, sizes: MessageSizes::new(message_bytes_max) }
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Received<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        Pin::new(&mut this.body).poll_frame(cx).map(|frame| {
            frame.map(|frame| {
                let frame = frame.map_err(|error| Status::from_error(Box::new(error)))?;
                frame.data_ref().map_or(Ok(()), |data| this.sizes.pass(data))?;
                Ok(frame)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer as the server writes it: a message that is too long becomes a status in the trailers,
/// and what it holds (the place among the calls in hand) is given back at its end.
pub(crate) struct Answered<H> {
    body: tonic::body::Body,
    sizes: MessageSizes,
    is_ended: bool,
    _held: H,
}

impl<H> Answered<H> {
    pub(crate) fn new(body: tonic::body::Body, message_bytes_max: usize, held: H) -> Self {
        Self { body, sizes: MessageSizes::new(message_bytes_max), is_ended: false, _held: held }
    }
}

impl<H: Unpin> Body for Answered<H> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.is_ended {
            return Poll::Ready(None);
        }
        Pin::new(&mut this.body).poll_frame(cx).map(|frame| match frame {
            Some(Ok(frame)) => match frame.data_ref().map_or(Ok(()), |data| this.sizes.pass(data)) {
                Ok(()) => Some(Ok(frame)),
                Err(status) => this.end_with(&status),
            },
            // An error here would reset the stream and leave the caller without a status.
            Some(Err(status)) => this.end_with(&status),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The body may be cut short, so its own hint may be too much.
        SizeHint::default()
    }
}

impl<H> Answered<H> {
    fn end_with(&mut self, status: &Status) -> Option<Result<Frame<Bytes>, Status>> {
        self.is_ended = true;
        Some(trailers(status))
    }
}

/// An answer as the client reads it; a connection that breaks is `Unavailable`.
#[derive(Default)]
pub struct ResponseBody(Source);

#[derive(Default)]
enum Source {
    #[default]
    Empty,
    Connection(Incoming),
    Status(Status),
}

impl ResponseBody {
    pub(crate) fn new(body: Incoming) -> Self {
        Self(Source::Connection(body))
    }

    /// A body whose trailers say `status`: the failure of a call that may have taken effect. In
    /// the head it would read as if nothing had happened, and a retry layer would repeat the call.
    pub(crate) fn ending_with(status: Status) -> Self {
        Self(Source::Status(status))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut self.0 {
            Source::Empty => Poll::Ready(None),
            Source::Connection(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(|error| broken(&error))))
            }
            Source::Status(status) => {
                let trailers = trailers(status);
                self.0 = Source::Empty;
                Poll::Ready(Some(trailers))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Empty => true,
            Source::Connection(body) => body.is_end_stream(),
            Source::Status(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Connection(body) => body.size_hint(),
            Source::Empty | Source::Status(_) => SizeHint::with_exact(0),
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = http::HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

/// What a broken connection means to a call.
pub(crate) fn broken(error: &hyper::Error) -> Status {
    let mut cause: &dyn StdError = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Status::unavailable(format!("the connection broke: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.extend(vec![7; length as usize]);
        bytes
    }

    #[test]
    fn sizes_are_found_wherever_the_bytes_are_cut() {
        let stream: Vec<u8> = [message(3), message(0), message(9), message(11)].concat();
        for cut in 1..=stream.len() {
            let mut sizes = MessageSizes::new(10);
            let passed: Vec<_> = stream.chunks(cut).map(|chunk| sizes.pass(chunk)).collect();
            let refusals: Vec<_> = passed.into_iter().filter_map(Result::err).collect();
            assert_eq!(refusals.first().map(Status::code), Some(tonic::Code::OutOfRange), "cut at {cut}");
            assert!(refusals[0].message().contains("11 bytes, the limit is 10"));
        }
    }

    #[test]
    fn a_message_of_just_the_limit_passes() {
        assert!(MessageSizes::new(10).pass(&message(10)).is_ok());
    }
}
