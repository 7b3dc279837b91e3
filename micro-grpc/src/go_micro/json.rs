//! Bodies whose messages are proto3 JSON on the wire and protobuf inside.
//!
//! Go prints proto fields by their own names, enum values by name, and leaves defaults out; it reads
//! both spellings of a name and refuses one that it does not know.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::{Body, Frame};
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::Status;

use crate::server::Method;

/// A byte of flags, four of length.
const PREFIX: usize = 5;

/// A request of JSON messages, read as protobuf.
pub(crate) struct FromJson<B>(Transcoded<B>);

/// An answer of protobuf messages, written as JSON.
pub(crate) struct ToJson<B>(Transcoded<B>);

impl<B> FromJson<B> {
    pub(crate) fn new(body: B, method: &Arc<Method>) -> Self {
        Self(Transcoded { body, buffer: BytesMut::new(), message: method.input.clone() })
    }
}

impl<B> ToJson<B> {
    pub(crate) fn new(body: B, method: &Arc<Method>) -> Self {
        Self(Transcoded { body, buffer: BytesMut::new(), message: method.output.clone() })
    }
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Body for FromJson<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.poll_message(cx, from_json)
    }
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Body for ToJson<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.poll_message(cx, to_json)
    }
}

struct Transcoded<B> {
    body: B,
    /// At most one message that is not whole yet, whose size the body around checks, and a frame.
    buffer: BytesMut,
    message: MessageDescriptor,
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Transcoded<B> {
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        transcode: fn(&MessageDescriptor, &[u8]) -> Result<Vec<u8>, Status>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match next_message(&mut self.buffer) {
                Ok(Some(message)) => {
                    let transcoded = transcode(&self.message, &message).and_then(|message| framed(&message));
                    return Poll::Ready(Some(transcoded.map(Frame::data)));
                }
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None if self.buffer.is_empty() => return Poll::Ready(None),
                None => {
                    self.buffer.clear();
                    return Poll::Ready(Some(Err(Status::internal("the body ends within a message"))));
                }
            }
        }
    }
}

/// The next whole message of the buffer.
fn next_message(buffer: &mut BytesMut) -> Result<Option<BytesMut>, Status> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let [flags, length @ ..] = *prefix;
    if flags != 0 {
        return Err(Status::unimplemented("a message of JSON is compressed, expected it plain"));
    }
    let length = u32::from_be_bytes(length) as usize;
    if rest.len() < length {
        return Ok(None);
    }
    let mut message = buffer.split_to(PREFIX + length);
    Ok(Some(message.split_off(PREFIX)))
}

fn framed(message: &[u8]) -> Result<Bytes, Status> {
    let length = u32::try_from(message.len())
        .map_err(|_| Status::out_of_range("the message is longer than gRPC's four bytes of length can say"))?;
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(message);
    Ok(frame.freeze())
}

fn from_json(descriptor: &MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, Status> {
    // A message without a byte is one without a field, as Go's codec reads it.
    if json.is_empty() {
        return Ok(Vec::new());
    }
    let refuse = |error: serde_json::Error| {
        // gRPC's libraries answer a message that is none with INTERNAL; the text is Go's, and ours.
        Status::internal(format!("grpc: failed to unmarshal the received message: {}: {error}", descriptor.full_name()))
    };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), &mut reader, &DeserializeOptions::new())
        .map_err(refuse)?;
    reader.end().map_err(refuse)?;
    Ok(message.encode_to_vec())
}

fn to_json(descriptor: &MessageDescriptor, protobuf: &[u8]) -> Result<Vec<u8>, Status> {
    let message = DynamicMessage::decode(descriptor.clone(), protobuf)
        .map_err(|error| Status::internal(format!("the answer is no {}: {error}", descriptor.full_name())))?;
    let mut json = Vec::with_capacity(protobuf.len() * 2);
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options)
        .map_err(|error| Status::internal(format!("a {} is no JSON: {error}", descriptor.full_name())))?;
    Ok(json)
}
