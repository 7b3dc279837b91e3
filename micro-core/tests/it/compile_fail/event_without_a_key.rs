//! An event without a key: its `key` is not implemented.

use bytes::{Bytes, BytesMut};
use micro_core::{Result, event::Event};

struct Paid;

impl Event for Paid {
    const TOPIC: &'static str = "Order";
    const EVENT_TYPE: &'static str = "Paid";

    fn encode_payload(&self, _: &mut BytesMut) -> Result<()> {
        Ok(())
    }

    fn decode_payload(_: Bytes) -> Result<Self> {
        Ok(Paid)
    }
}

fn main() {}
