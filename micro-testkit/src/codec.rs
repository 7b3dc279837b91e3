//! The suite of the codec port.

use std::{fmt::Debug, panic::AssertUnwindSafe};

use bytes::{Bytes, BytesMut};
use micro_core::{Error, ErrorKind, Result, codec::Codec};

use crate::Fixture;

/// What the codec suite runs on.
pub trait CodecFixture: Fixture {
    /// The type that is encoded.
    type Value: Debug + PartialEq + 'static;

    /// The codec.
    fn codec(&self) -> &dyn Codec<Self::Value>;

    /// Values to encode: the default, and some with every field set. At least two, all different.
    fn values(&self) -> Vec<Self::Value>;

    /// Bytes that are no such value; empty where all bytes are one.
    fn foreign(&self) -> Vec<Bytes>;
}

/// Makes a test of every promise of [`Codec`], or of those that are listed.
#[macro_export]
macro_rules! codec_conformance {
    ($fixture:ty) => {
        $crate::codec_conformance!(
            $fixture;
            what_is_encoded_decodes_to_an_equal_value
            encode_appends
            foreign_bytes_are_data_loss_and_no_panic
            content_type_is_a_lowercase_media_type
        );
    };
    ($fixture:ty; $($promise:ident)+) => { $crate::__conformance!(codec, $fixture, $($promise)+); };
}

/// Every value comes back as it was.
pub async fn what_is_encoded_decodes_to_an_equal_value(fixture: &impl CodecFixture) {
    let values = fixture.values();
    assert!(values.len() >= 2, "the fixture gives too few values to tell");
    for value in values {
        let decoded = fixture.codec().decode(encoded(fixture, &value)).expect("what was encoded decodes");
        assert_eq!(decoded, value);
    }
}

/// What stands in the buffer before stays, and the value's bytes follow.
pub async fn encode_appends(fixture: &impl CodecFixture) {
    for value in fixture.values() {
        let mut buffer = BytesMut::from(&b"before"[..]);
        fixture.codec().encode(&value, &mut buffer).expect("the value encodes");
        assert!(buffer.starts_with(b"before"), "what stood in the buffer is gone: {buffer:?}");
        let decoded = fixture.codec().decode(buffer.freeze().slice(6..)).expect("what was appended decodes");
        assert_eq!(decoded, value);
    }
}

/// Foreign bytes are `DataLoss` with a reason; mangled ones that, or another value; neither panics.
pub async fn foreign_bytes_are_data_loss_and_no_panic(fixture: &impl CodecFixture) {
    for bytes in fixture.foreign() {
        let error = decoded(fixture, bytes.clone()).expect_err("foreign bytes are no value");
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{bytes:?}: {error}");
        assert!(std::error::Error::source(&error).is_some(), "the decoder's reason is missing: {error}");
    }
    for bytes in fixture.values().iter().flat_map(|value| mangled(&encoded(fixture, value))) {
        if let Err(error) = decoded(fixture, bytes.clone()) {
            assert_eq!(error.kind(), ErrorKind::DataLoss, "{bytes:?}: {error}");
        }
    }
}

/// `type/subtype`, lower case, no parameters, no spaces.
pub async fn content_type_is_a_lowercase_media_type(fixture: &impl CodecFixture) {
    let content_type = fixture.codec().content_type();
    let is_name = |name: &str| {
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "!#$&-^_.+".contains(c);
        !name.is_empty() && name.chars().all(is_allowed)
    };
    let parts = content_type.split_once('/');
    assert!(parts.is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype)), "{content_type:?}");
}

fn encoded<F: CodecFixture>(fixture: &F, value: &F::Value) -> Bytes {
    let mut buffer = BytesMut::new();
    fixture.codec().encode(value, &mut buffer).expect("the value encodes");
    buffer.freeze()
}

fn decoded<F: CodecFixture>(fixture: &F, bytes: Bytes) -> Result<F::Value> {
    let decoding = AssertUnwindSafe(|| fixture.codec().decode(bytes.clone()));
    std::panic::catch_unwind(decoding).unwrap_or_else(|_| panic!("decoding {bytes:?} panicked"))
}

/// Every cut of the bytes, and every byte of them changed.
fn mangled(bytes: &Bytes) -> Vec<Bytes> {
    let cuts = (0..bytes.len()).map(|end| bytes.slice(..end));
    let changes = (0..bytes.len()).flat_map(|index| {
        [0x00, 0x7f, 0xff].map(|byte| {
            let mut changed = bytes.to_vec();
            changed[index] = byte;
            changed.into()
        })
    });
    cuts.chain(changes).collect()
}

/// A promise of [`Codec`] that [`BrokenCodec`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecFault {
    /// Decodes all but the last byte.
    LosesAByte,
    /// Empties the buffer before it encodes.
    Overwrites,
    /// Says `InvalidArgument` of foreign bytes.
    BlamesTheCaller,
    /// Panics at foreign bytes.
    Panics,
    /// Adds a parameter to the content type.
    HasAParameter,
}

/// A codec that breaks one promise of the one inside, or none.
pub struct BrokenCodec<C> {
    codec: C,
    fault: Option<CodecFault>,
}

impl<C> BrokenCodec<C> {
    /// Breaks `fault`'s promise.
    pub fn new(codec: C, fault: impl Into<Option<CodecFault>>) -> Self {
        Self { codec, fault: fault.into() }
    }
}

impl<T, C: Codec<T>> Codec<T> for BrokenCodec<C> {
    fn content_type(&self) -> &'static str {
        match self.fault {
            Some(CodecFault::HasAParameter) => "application/json; charset=utf-8",
            _ => self.codec.content_type(),
        }
    }

    fn encode(&self, value: &T, buffer: &mut BytesMut) -> Result<()> {
        if self.fault == Some(CodecFault::Overwrites) {
            buffer.clear();
        }
        self.codec.encode(value, buffer)
    }

    fn decode(&self, mut bytes: Bytes) -> Result<T> {
        if self.fault == Some(CodecFault::LosesAByte) {
            bytes.truncate(bytes.len().saturating_sub(1));
        }
        self.codec.decode(bytes).map_err(|error| match self.fault {
            Some(CodecFault::BlamesTheCaller) => {
                Error::new(ErrorKind::InvalidArgument, "codec.decode", "not such a value").with_source(error)
            }
            Some(CodecFault::Panics) => panic!("{error}"),
            _ => error,
        })
    }
}
