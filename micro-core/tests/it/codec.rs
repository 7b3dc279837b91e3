//! The codec suite on the codecs of this crate.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use micro_core::{
    codec::{BytesCodec, Codec, JsonCodec, ProtobufCodec},
    event::BaseEvent,
};
use micro_testkit::{Fixture, Missing, codec::CodecFixture};

/// A codec, the values it is tried with, and bytes that are none.
macro_rules! codec_fixture {
    ($fixture:ident, $codec:expr, $value:ty, values: $values:expr, foreign: $foreign:expr) => {
        struct $fixture;

        impl Fixture for $fixture {
            async fn start() -> Result<Self, Missing> {
                Ok(Self)
            }

            fn patience(&self) -> Duration {
                Duration::from_secs(1)
            }
        }

        impl CodecFixture for $fixture {
            type Value = $value;

            fn codec(&self) -> &dyn Codec<$value> {
                &$codec
            }

            fn values(&self) -> Vec<$value> {
                $values.into()
            }

            fn foreign(&self) -> Vec<Bytes> {
                let foreign: &[&'static [u8]] = &$foreign;
                foreign.iter().map(|bytes| Bytes::from_static(bytes)).collect()
            }
        }
    };
}

codec_fixture!(
    Protobuf, ProtobufCodec, BaseEvent,
    values: [
        BaseEvent::default(),
        BaseEvent { timestamp: -1, event_type: "OnPaymentSuccess".to_owned(), payload: Bytes::from_static(b"\x00\xff") },
    ],
    // A field number of 0; a length beyond the end; a name that is not UTF-8.
    foreign: [b"\x00\x01", b"\x1a\x7fshort", b"\x1a\x01\xff"]
);

mod protobuf {
    micro_testkit::codec_conformance!(super::Protobuf);
}

codec_fixture!(
    Json, JsonCodec, BTreeMap<String, Vec<Option<i64>>>,
    values: [
        BTreeMap::new(),
        BTreeMap::from([("größe".to_owned(), vec![Some(i64::MIN), None, Some(i64::MAX)]), (String::new(), vec![])]),
    ],
    foreign: [b"", b"{", b"[]", b"{\"a\":[1.5]}", b"{} {}", b"\xff"]
);

mod json {
    micro_testkit::codec_conformance!(super::Json);
}

codec_fixture!(
    Raw, BytesCodec, Bytes,
    values: [Bytes::new(), Bytes::from_static(b"\x00\xff{")],
    foreign: []
);

mod bytes_as_they_are {
    micro_testkit::codec_conformance!(super::Raw);
}
