//! The codec port: values to bytes and back, chosen by content type.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Error, ErrorKind, Result};

/// Turns a `T` into bytes and back. Dyn-safe, because `T` is a parameter of the trait.
///
/// # Contract
///
/// - `what_is_encoded_decodes_to_an_equal_value`.
/// - `encode_appends`: what stands in the buffer before stays.
/// - `foreign_bytes_are_data_loss_and_no_panic`.
/// - `content_type_is_a_lowercase_media_type`.
pub trait Codec<T>: Send + Sync + 'static {
    /// The media type it stands for, lower case, without parameters.
    fn content_type(&self) -> &'static str;

    /// Appends the value's bytes to `buffer`.
    fn encode(&self, value: &T, buffer: &mut BytesMut) -> Result<()>;

    /// Reads a value.
    ///
    /// # Errors
    ///
    /// `DataLoss`, with the decoder's reason as source.
    fn decode(&self, bytes: Bytes) -> Result<T>;
}

/// Protobuf by prost: `application/protobuf`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProtobufCodec;

impl<T: prost::Message + Default + 'static> Codec<T> for ProtobufCodec {
    fn content_type(&self) -> &'static str {
        "application/protobuf"
    }

    fn encode(&self, value: &T, buffer: &mut BytesMut) -> Result<()> {
        value.encode(buffer).map_err(|error| encode_error("application/protobuf").with_source(error))
    }

    fn decode(&self, bytes: Bytes) -> Result<T> {
        T::decode(bytes).map_err(|error| decode_error("application/protobuf").with_source(error))
    }
}

/// JSON by serde: `application/json`. For plain types; JSON of protobuf messages has other rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonCodec;

impl<T: serde::Serialize + serde::de::DeserializeOwned + 'static> Codec<T> for JsonCodec {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn encode(&self, value: &T, buffer: &mut BytesMut) -> Result<()> {
        serde_json::to_writer(buffer.writer(), value)
            .map_err(|error| encode_error("application/json").with_source(error))
    }

    fn decode(&self, bytes: Bytes) -> Result<T> {
        serde_json::from_slice(&bytes).map_err(|error| decode_error("application/json").with_source(error))
    }
}

/// Bytes as they are: `application/octet-stream`.
#[derive(Clone, Copy, Debug, Default)]
pub struct BytesCodec;

impl Codec<Bytes> for BytesCodec {
    fn content_type(&self) -> &'static str {
        "application/octet-stream"
    }

    fn encode(&self, value: &Bytes, buffer: &mut BytesMut) -> Result<()> {
        buffer.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: Bytes) -> Result<Bytes> {
        Ok(bytes)
    }
}

fn encode_error(content_type: &'static str) -> Error {
    Error::new(ErrorKind::Internal, "codec.encode", "the value cannot be encoded")
        .with_context("content_type", content_type)
}

fn decode_error(content_type: &'static str) -> Error {
    Error::new(ErrorKind::DataLoss, "codec.decode", "the bytes are not such a value")
        .with_context("content_type", content_type)
}

/// The codecs of one type, by content type. The first one added is the default.
pub struct Codecs<T> {
    codecs: Vec<(String, Arc<dyn Codec<T>>)>,
}

impl<T: 'static> Codecs<T> {
    /// Only `default`, under its own content type.
    pub fn new(default: impl Codec<T>) -> Self {
        Self { codecs: Vec::new() }.with(default)
    }

    /// Adds a codec under its own content type; one already there is replaced.
    #[must_use]
    pub fn with(self, codec: impl Codec<T>) -> Self {
        let content_type = codec.content_type();
        self.with_alias(content_type, Arc::new(codec))
    }

    /// Adds a codec under another content type, for instance `application/grpc+proto`.
    #[must_use]
    pub fn with_alias(mut self, content_type: &str, codec: Arc<dyn Codec<T>>) -> Self {
        let name = media_type(content_type);
        match self.codecs.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = codec,
            None => self.codecs.push((name, codec)),
        }
        self
    }

    /// The codec for a content type, parameters and case ignored; the default for an empty one.
    ///
    /// # Errors
    ///
    /// `Unimplemented`, naming what was asked for and what there is.
    pub fn get(&self, content_type: &str) -> Result<&dyn Codec<T>> {
        let name = media_type(content_type);
        if name.is_empty() {
            return Ok(&*self.codecs[0].1);
        }
        self.codecs.iter().find(|(known, _)| *known == name).map(|(_, codec)| &**codec).ok_or_else(|| {
            let known: Vec<&str> = self.codecs.iter().map(|(known, _)| known.as_str()).collect();
            Error::new(ErrorKind::Unimplemented, "codecs.get", "no codec for this content type")
                .with_context("content_type", name)
                .with_context("known", known.join(" "))
        })
    }
}

fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_pick_by_media_type_and_name_what_they_know() {
        let codecs = Codecs::<String>::new(JsonCodec);
        assert_eq!(codecs.get("Application/JSON; charset=utf-8").unwrap().content_type(), "application/json");
        assert_eq!(codecs.get("").unwrap().content_type(), "application/json");
        let error = codecs.get("text/xml").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unimplemented);
        assert!(error.to_string().contains("known=application/json"), "{error}");
    }
}
