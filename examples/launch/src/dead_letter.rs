//! Dead-letter events: the original's key and payload under a type and on a topic of their own.

/// Makes an event of a tuple struct around another one: `dead_letter_event!(Type of Original, "Topic",
/// "EventType")`.
#[macro_export]
macro_rules! dead_letter_event {
    ($type:ident of $original:ty, $topic:literal, $event_type:literal) => {
        impl ::micro_core::event::Event for $type {
            const TOPIC: &'static str = $topic;
            const EVENT_TYPE: &'static str = $event_type;

            fn key(&self) -> String {
                self.0.key()
            }

            fn encode_payload(&self, payload: &mut ::bytes::BytesMut) -> ::micro_core::Result<()> {
                self.0.encode_payload(payload)
            }

            fn decode_payload(payload: ::bytes::Bytes) -> ::micro_core::Result<Self> {
                <$original as ::micro_core::event::Event>::decode_payload(payload).map(Self)
            }
        }
    };
}
