//! Bodies as they pass: the size of each gRPC message is checked, and what breaks has a status.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::Status;
use tower::BoxError;

use crate::go_micro::{ErrorForm, Refuser};

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
    has_passed_one: bool,
}

const PREFIX: usize = 5;

impl MessageSizes {
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self { message_bytes_max, prefix: [0; PREFIX], prefix_count: 0, message_rest: 0, has_passed_one: false }
    }

    /// Looks at the next bytes; refuses at the prefix of a message that is too long.
    pub(crate) fn pass(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            if self.message_rest > 0 {
                let skipped = self.message_rest.min(data.len());
                self.message_rest -= skipped;
                data = &data[skipped..];
                self.has_passed_one |= self.message_rest == 0;
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
                self.has_passed_one |= self.message_rest == 0;
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
    ends_after_one: bool,
}

impl<B> Received<B> {
    pub(crate) fn new(body: B, message_bytes_max: usize) -> Self {
        Self { body, sizes: MessageSizes::new(message_bytes_max), ends_after_one: false }
    }

    /// Ends the body after its first message, whether or not the client has ended its side.
    ///
    /// tonic calls the handler of a method that answers with a stream once the request has ended,
    /// and go-micro's clients never end it: without this, both wait.
    pub(crate) fn ending_after_one_message(mut self, ends_after_one: bool) -> Self {
        self.ends_after_one = ends_after_one;
        self
    }

    fn is_over(&self) -> bool {
        self.ends_after_one && self.sizes.has_passed_one
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for Received<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.is_over() {
            return Poll::Ready(None);
        }
        Pin::new(&mut this.body).poll_frame(cx).map(|frame| {
            frame.map(|frame| {
                let frame = frame.map_err(|error| Status::from_error(error.into()))?;
                frame.data_ref().map_or(Ok(()), |data| this.sizes.pass(data))?;
                Ok(frame)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_over() || self.body.is_end_stream()
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
    form: Option<Arc<ErrorForm>>,
    _held: H,
}

impl<H> Answered<H> {
    pub(crate) fn new(body: tonic::body::Body, message_bytes_max: usize, held: H) -> Self {
        Self { body, sizes: MessageSizes::new(message_bytes_max), is_ended: false, form: None, _held: held }
    }

    /// Gives a failure in the trailers this form.
    pub(crate) fn in_form(mut self, form: Option<Arc<ErrorForm>>) -> Self {
        self.form = form;
        self
    }

    fn dressed(&self, frame: Frame<Bytes>, refuser: Refuser) -> Frame<Bytes> {
        let Some(form) = &self.form else { return frame };
        match frame.into_trailers() {
            Ok(mut trailers) => {
                form.dress(&mut trailers, refuser);
                Frame::trailers(trailers)
            }
            Err(data) => data,
        }
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
                Ok(()) => Some(Ok(this.dressed(frame, Refuser::Handler))),
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
        Some(trailers(status).map(|frame| self.dressed(frame, Refuser::Server)))
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
    Message(MessageBody<Incoming>),
    Status(Status),
}

impl ResponseBody {
    pub(crate) fn new(body: Incoming) -> Self {
        Self(Source::Connection(body))
    }

    /// The body of one message that came by other means than gRPC, and success.
    pub(crate) fn of_message(body: MessageBody<Incoming>) -> Self {
        Self(Source::Message(body))
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
            Source::Connection(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map(readable).map_err(|e| broken(&e)))),
            Source::Message(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(None) => {
                    self.0 = Source::Empty;
                    Poll::Ready(Some(trailers(&Status::ok(""))))
                }
                frame => frame.map(|frame| frame.map(|frame| frame.map_err(|e| broken(&e)))),
            },
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
            Source::Message(_) | Source::Status(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Connection(body) => body.size_hint(),
            Source::Message(_) => SizeHint::default(),
            Source::Empty | Source::Status(_) => SizeHint::with_exact(0),
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

/// A body that is one message as a whole, with gRPC's prefix before it.
pub(crate) struct MessageBody<B> {
    prefix: Option<Bytes>,
    body: B,
}

impl<B: Body> MessageBody<B> {
    /// `None` where the body does not say how long it is, or says more than the prefix can.
    pub(crate) fn new(body: B) -> Option<Self> {
        let [a, b, c, d] = u32::try_from(body.size_hint().exact()?).ok()?.to_be_bytes();
        Some(Self { prefix: Some(Bytes::copy_from_slice(&[0, a, b, c, d])), body })
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for MessageBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.prefix.take() {
            Some(prefix) => Poll::Ready(Some(Ok(Frame::data(prefix)))),
            None => Pin::new(&mut self.body).poll_frame(cx),
        }
    }
}

/// Trailers that tonic can read.
fn readable(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            drop_malformed_details(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

/// Removes details that are not base64: tonic panics at them, and a peer must not be able to do that.
pub(crate) fn drop_malformed_details(headers: &mut HeaderMap) {
    let details = headers.get(Status::GRPC_STATUS_DETAILS);
    if details.is_some_and(|details| BASE64.decode(details.as_bytes()).is_err()) {
        headers.remove(Status::GRPC_STATUS_DETAILS);
    }
}

/// As tonic reads it. Source: "Binary-Header" in
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>: with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
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
    fn the_end_of_the_first_message_is_seen_wherever_the_bytes_are_cut() {
        for length in [0, 3] {
            let first = message(length);
            for cut in 1..=first.len() {
                let mut sizes = MessageSizes::new(10);
                for chunk in first.chunks(cut) {
                    assert!(!sizes.has_passed_one);
                    sizes.pass(chunk).unwrap();
                }
                assert!(sizes.has_passed_one, "{length} bytes, cut at {cut}");
            }
        }
    }

    #[test]
    fn details_that_are_no_base64_are_dropped() {
        for (details, is_kept) in [("CAU", true), ("CAU=", true), ("C*U", false), ("C", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(Status::GRPC_STATUS, "5".parse().unwrap());
            headers.insert(Status::GRPC_STATUS_DETAILS, details.parse().unwrap());
            drop_malformed_details(&mut headers);
            let status = Status::from_header_map(&headers).unwrap();
            assert_eq!(!status.details().is_empty(), is_kept, "{details}");
        }
    }

    #[test]
    fn a_message_of_just_the_limit_passes() {
        assert!(MessageSizes::new(10).pass(&message(10)).is_ok());
    }
}
