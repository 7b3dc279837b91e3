//! The codec suite against honest and broken codecs.

use std::time::Duration;

use bytes::Bytes;
use micro_core::codec::{Codec, JsonCodec};
use micro_testkit::{
    Fixture, Missing, breaks,
    codec::{self, BrokenCodec, CodecFault, CodecFixture},
};

struct Coding(BrokenCodec<JsonCodec>);

impl Coding {
    fn with(fault: impl Into<Option<CodecFault>>) -> Self {
        Self(BrokenCodec::new(JsonCodec, fault))
    }
}

impl Fixture for Coding {
    async fn start() -> Result<Self, Missing> {
        Ok(Self::with(None))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }
}

impl CodecFixture for Coding {
    type Value = Vec<String>;

    fn codec(&self) -> &dyn Codec<Vec<String>> {
        &self.0
    }

    fn values(&self) -> Vec<Vec<String>> {
        vec![vec![], vec!["a".to_owned(), "ö".to_owned()]]
    }

    fn foreign(&self) -> Vec<Bytes> {
        vec![Bytes::from_static(b"{}"), Bytes::from_static(b"\xff"), Bytes::new()]
    }
}

mod unbroken {
    micro_testkit::codec_conformance!(super::Coding);
}

#[tokio::test]
async fn what_is_encoded_decodes_to_an_equal_value_can_fail() {
    let fixture = Coding::with(CodecFault::LosesAByte);
    let suite = codec::what_is_encoded_decodes_to_an_equal_value(&fixture);
    let reason = breaks("what_is_encoded_decodes_to_an_equal_value", suite).await;
    assert!(reason.contains("what was encoded decodes"), "{reason}");
}

#[tokio::test]
async fn encode_appends_can_fail() {
    let fixture = Coding::with(CodecFault::Overwrites);
    let reason = breaks("encode_appends", codec::encode_appends(&fixture)).await;
    assert!(reason.contains("what stood in the buffer is gone"), "{reason}");
}

#[tokio::test]
async fn foreign_bytes_are_data_loss_and_no_panic_can_fail() {
    for (fault, expected) in
        [(CodecFault::BlamesTheCaller, "left: InvalidArgument"), (CodecFault::Panics, "decoding b\"{}\" panicked")]
    {
        let fixture = Coding::with(fault);
        let suite = codec::foreign_bytes_are_data_loss_and_no_panic(&fixture);
        let reason = breaks("foreign_bytes_are_data_loss_and_no_panic", suite).await;
        assert!(reason.contains(expected), "{reason}");
    }
}

#[tokio::test]
async fn content_type_is_a_lowercase_media_type_can_fail() {
    let fixture = Coding::with(CodecFault::HasAParameter);
    let suite = codec::content_type_is_a_lowercase_media_type(&fixture);
    let reason = breaks("content_type_is_a_lowercase_media_type", suite).await;
    assert!(reason.contains("charset"), "{reason}");
}
