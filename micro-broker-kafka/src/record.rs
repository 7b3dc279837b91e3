//! A message as a Kafka record and back: key, headers and body are the record's own.

use std::{
    collections::{HashSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use micro_core::{
    Error, ErrorKind, Result,
    broker::{Delivery, Headers, Message},
};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders, Timestamp};

use crate::envelope::{self, Opened};

/// Refuses what a record cannot hold. The rest is librdkafka's to judge.
pub(crate) fn check(message: &Message) -> Result<()> {
    let refused = |what| Err(Error::new(ErrorKind::InvalidArgument, "broker.publish", what));
    if message.topic.is_empty() {
        return refused("the message names no topic");
    }
    // librdkafka reads names up to their first NUL.
    if message.topic.contains('\0') || message.headers.iter().any(|(name, _)| name.contains('\0')) {
        return refused("the name of the topic or of a header holds a NUL byte");
    }
    Ok(())
}

pub(crate) fn headers_of(message: &Message) -> Option<OwnedHeaders> {
    if message.headers.is_empty() {
        return None;
    }
    let headers = OwnedHeaders::new_with_capacity(message.headers.len());
    Some(
        message
            .headers
            .iter()
            .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some::<&[u8]>(value) })),
    )
}

/// How much is allocated at once for the bytes of received records.
const BLOCK_BYTES: usize = 64 << 10;
/// Longer ones have an allocation of their own.
const COPIED_BYTES_MAX: usize = BLOCK_BYTES / 16;
/// Blocks that are kept to be filled again.
const BLOCK_COUNT_MAX: usize = 16;

/// Memory for what is received: the bytes of many records in one allocation, which is filled again
/// once the last of them is dropped. Deliveries are done in about the order they came, so little is
/// held for long.
pub(crate) struct Blocks {
    free: BytesMut,
    /// Full ones, the oldest first.
    full: VecDeque<BytesMut>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { free: BytesMut::with_capacity(BLOCK_BYTES), full: VecDeque::new() }
    }
}

impl Blocks {
    fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() {
            return Bytes::new();
        }
        if bytes.len() > COPIED_BYTES_MAX {
            return Bytes::copy_from_slice(bytes);
        }
        if self.free.capacity() < bytes.len() {
            self.next_block();
        }
        self.free.extend_from_slice(bytes);
        self.free.split().freeze()
    }

    fn next_block(&mut self) {
        let is_done = self.full.front_mut().is_some_and(|oldest| oldest.try_reclaim(BLOCK_BYTES));
        let done = if is_done { self.full.pop_front() } else { None };
        let next = done.unwrap_or_else(|| BytesMut::with_capacity(BLOCK_BYTES));
        self.full.push_back(std::mem::replace(&mut self.free, next));
        if self.full.len() > BLOCK_COUNT_MAX {
            // It is freed with the last of its deliveries.
            self.full.pop_front();
        }
    }
}

/// A record as a delivery of `topic`, whether it is a message in itself or holds an envelope.
pub(crate) fn delivery_of(record: &BorrowedMessage<'_>, topic: &Arc<str>, blocks: &mut Blocks) -> Delivery {
    let key = record.key().map(|key| blocks.copy(key));
    let headers = record.headers().map(|headers| received_headers(headers, blocks)).unwrap_or_default();
    let value = record.payload().unwrap_or_default();
    let message = match opened(record, value) {
        Some(Opened { headers: of_envelope, key: of_envelope_key, body }) => {
            Message { topic: topic.clone(), key: key.or(of_envelope_key), headers: merged(of_envelope, headers), body }
        }
        None => Message { topic: topic.clone(), key, headers, body: blocks.copy(value) },
    };
    let timestamp = match record.timestamp() {
        Timestamp::CreateTime(millis) | Timestamp::LogAppendTime(millis) => u64::try_from(millis).unwrap_or_default(),
        Timestamp::NotAvailable => 0,
    };
    Delivery {
        message,
        partition: record.partition(),
        offset: record.offset(),
        timestamp: SystemTime::UNIX_EPOCH + Duration::from_millis(timestamp),
    }
}

/// What a go-micro envelope holds; `None` where the value is the body itself. One that is broken is
/// handed out as it is: its handler cannot read it, and it becomes a dead letter with its bytes.
fn opened(record: &BorrowedMessage<'_>, value: &[u8]) -> Option<Opened> {
    match envelope::open(value)? {
        Ok(opened) => Some(opened),
        Err(reason) => {
            tracing::warn!(
                topic = record.topic(), partition = record.partition(), offset = record.offset(), %reason,
                "a record looks like a go-micro envelope and is none; it is taken as it is"
            );
            None
        }
    }
}

/// An envelope's headers and the record's own, which count for more, as in go-micro; of those the
/// last of a name. There may be as many as a record has room for, so no name is searched for.
fn merged(of_envelope: Headers, of_record: Headers) -> Headers {
    if of_record.is_empty() {
        return of_envelope;
    }
    let mut names = HashSet::with_capacity(of_record.len());
    let mut last: Vec<_> = of_record.iter().collect();
    last.reverse();
    last.retain(|(name, _)| names.insert(name.to_ascii_lowercase()));
    let others = of_envelope.iter().filter(|(name, _)| !names.contains(&name.to_ascii_lowercase()));
    others.chain(last.into_iter().rev()).map(|(name, value)| (name, value.clone())).collect()
}

/// The headers of a record, whoever wrote it. One whose name is not UTF-8 is left out: the driver
/// panics at it, and a record must not end the thread that reads it.
fn received_headers(headers: &BorrowedHeaders, blocks: &mut Blocks) -> Headers {
    let read = |index| catch_unwind(AssertUnwindSafe(|| headers.try_get(index))).ok().flatten();
    let mut received = Headers::new();
    for header in (0..headers.count()).filter_map(read) {
        received.append(header.key, header.value.map(|value| blocks.copy(value)).unwrap_or_default());
    }
    received
}

/// What a delivery takes of the memory bound, roughly.
pub(crate) fn bytes_of(delivery: &Delivery) -> usize {
    let Message { key, headers, body, .. } = &delivery.message;
    let of_each = size_of::<(String, Bytes)>();
    let headers: usize = headers.iter().map(|(name, value)| of_each + name.len() + value.len()).sum();
    key.as_ref().map_or(0, Bytes::len) + headers + body.len() + size_of::<Delivery>()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Instant};

    use super::*;

    #[test]
    fn blocks_copy_bytes_of_any_length() {
        let mut blocks = Blocks::default();
        let lengths = [0, 1, 100, COPIED_BYTES_MAX, COPIED_BYTES_MAX + 1, 2 * BLOCK_BYTES];
        let written: Vec<Vec<u8>> = (0..200).map(|index: usize| vec![index as u8; lengths[index % 6]]).collect();
        let copied: Vec<Bytes> = written.iter().map(|bytes| blocks.copy(bytes)).collect();
        assert_eq!(copied, written);
        assert!(blocks.free.capacity() <= BLOCK_BYTES);
    }

    #[test]
    fn a_block_is_filled_again_once_nothing_of_it_is_held_and_not_before() {
        let mut blocks = Blocks::default();
        let held = blocks.copy(b"held");
        let fill = |blocks: &mut Blocks| blocks.copy(&[7; COPIED_BYTES_MAX]).as_ptr();
        let addresses = |blocks: &mut Blocks, count| (0..count).map(|_| fill(blocks)).collect::<BTreeSet<_>>();
        // The oldest block is held, so each is a new one, until the oldest is given up.
        let places_a_block = BLOCK_BYTES / COPIED_BYTES_MAX;
        let count = (BLOCK_COUNT_MAX + 1) * places_a_block;
        assert_eq!(addresses(&mut blocks, count).len(), count);
        assert_eq!(held, "held");
        // Nothing is held of those that were filled since: they go round.
        let again = addresses(&mut blocks, 4 * count);
        assert!(again.len() <= 2 * count, "{} places for {} copies", again.len(), 4 * count);
        assert!(blocks.full.len() <= BLOCK_COUNT_MAX);
    }

    fn numbered(prefix: &str) -> Headers {
        (0..100_000).map(|number| (format!("{prefix}{number}"), Bytes::new())).collect()
    }

    #[test]
    fn very_many_headers_are_merged_in_a_moment() {
        let started = Instant::now();
        let merged = merged(numbered("x"), numbered("y"));
        let took = started.elapsed();
        assert_eq!(merged.len(), 200_000);
        assert!(took < Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn of_headers_of_one_name_the_records_last_stays_whatever_the_case() {
        let of_envelope = [("Source", "go"), ("Event-Type", "old"), ("EVENT-TYPE", "older")].into_iter().collect();
        let of_record = [("event-type", "new"), ("X", "1"), ("Event-type", "newer")].into_iter().collect();
        let expected: Headers = [("Source", "go"), ("X", "1"), ("Event-type", "newer")].into_iter().collect();
        assert_eq!(merged(of_envelope, of_record), expected);
    }

    #[test]
    fn headers_count_for_the_room_they_take_though_they_are_empty() {
        let message = Message { headers: numbered(""), ..Message::unkeyed("t", "") };
        let delivery = Delivery { message, partition: 0, offset: 0, timestamp: SystemTime::UNIX_EPOCH };
        assert!(bytes_of(&delivery) > 100_000 * size_of::<(String, Bytes)>());
    }

    #[test]
    fn names_that_a_record_cannot_hold_are_refused() {
        for message in [
            Message::unkeyed("", "body"),
            Message::unkeyed("a\0b", "body"),
            Message::unkeyed("a", "body").with_header("x\0y", "value"),
        ] {
            assert_eq!(check(&message).unwrap_err().kind(), ErrorKind::InvalidArgument, "{message:?}");
        }
        check(&Message::keyed("a", "", "").with_header("", "")).unwrap();
    }
}
