//! Dead letters: the copy on `<Topic>DLQ`, and what an operator does with a letter.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::{
    inbox_service::{Failure, Inbox},
    router::DEAD_LETTER_SUFFIX,
};
use crate::{
    Error, ErrorKind, Result,
    broker::{Delivery, Message, header},
    event::{BaseEvent, unix_millis},
    parked::DeadLetter,
};

/// The longest cause that is kept, in bytes: it also travels as a record header.
const CAUSE_BYTES_MAX: usize = 2_048;

/// The dead letters of one group.
///
/// An event id here is [`DeadLetter::event_id`]: `<topic>:<event id>`.
#[derive(Clone)]
pub struct DeadLetters {
    inbox: Arc<Inbox>,
}

impl DeadLetters {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox }
    }

    /// The oldest dead letters, at most `limit`.
    pub async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        self.inbox.stores.dead_letters.list(&self.inbox.group, limit).await
    }

    /// How many there are.
    pub async fn count(&self) -> Result<u64> {
        self.inbox.stores.dead_letters.count(&self.inbox.group).await
    }

    /// Hands a dead letter to its handler again, in the transaction that removes it: its effect is
    /// applied once, however often it is replayed. A key that it held goes on. `false` when there
    /// is no such letter (any more).
    ///
    /// Later events of its key may have been handled meanwhile, unless the policy is
    /// [`AfterDeadLetter::ParkKey`](super::AfterDeadLetter::ParkKey).
    ///
    /// # Errors
    ///
    /// Those of the handler and of the stores; the letter stays.
    pub async fn replay(&self, event_id: &str) -> Result<bool> {
        match self.find(event_id).await? {
            Some(letter) => self.remove(&letter, true).await,
            None => Ok(false),
        }
    }

    /// Removes a dead letter for good, without its handler. A key that it held goes on. `false`
    /// when there is no such letter (any more).
    pub async fn discard(&self, event_id: &str) -> Result<bool> {
        match self.find(event_id).await? {
            Some(letter) => self.remove(&letter, false).await,
            None => Ok(false),
        }
    }

    async fn find(&self, event_id: &str) -> Result<Option<DeadLetter>> {
        self.inbox.stores.dead_letters.find(&self.inbox.group, event_id).await
    }

    async fn remove(&self, letter: &DeadLetter, is_handled: bool) -> Result<bool> {
        let inbox = &self.inbox;
        let mut was_there = false;
        let removed = inbox.transaction(async |tx| -> Result<(), Failure> {
            was_there = inbox.stores.dead_letters.remove(tx, &letter.group, &letter.event_id).await?;
            if !was_there {
                return Ok(());
            }
            if is_handled {
                let entry = inbox.open(&letter.delivery).ok_or_else(|| ignored(letter))?;
                inbox.handle(tx, &entry, letter.attempts).await?;
            }
            if inbox.stores.parked.release(tx, &letter.group, &letter.delivery).await? {
                inbox.wake_after(tx);
            }
            Ok(())
        });
        removed.await.map_err(|failure| match failure {
            Failure::Store(error) | Failure::Handler { error, .. } => error,
        })?;
        Ok(was_there)
    }
}

fn ignored(letter: &DeadLetter) -> Error {
    let message = "no handler for this event type, and the policy ignores unknown ones";
    Error::new(ErrorKind::Unimplemented, "dead_letters.replay", message).with_context("event_id", &letter.event_id)
}

/// The copy of a dead letter for `<Topic>DLQ`; none for a topic that ends in `DLQ`.
///
/// Key, payload and `Event_id` are those of the original; the type ends in `DLQ`, in the envelope
/// and in the header. What no handler ever saw keeps its body as it came: its envelope may have what
/// is not known here.
pub(crate) fn dead_letter_copy(letter: &DeadLetter) -> Option<Message> {
    let delivery = &letter.delivery;
    let original = &delivery.message;
    if original.topic.ends_with(DEAD_LETTER_SUFFIX) {
        return None;
    }
    let envelope = BaseEvent::open(delivery).ok();
    let event_type = match &envelope {
        Some(envelope) => envelope.event_type.clone(),
        None => original.headers.get_str(header::EVENT_TYPE).unwrap_or_default().to_owned(),
    };
    let event_type = event_type + DEAD_LETTER_SUFFIX;
    let body = match envelope.filter(|_| letter.attempts > 0) {
        Some(envelope) => BaseEvent { event_type: event_type.clone(), ..envelope }.encode_to_vec().into(),
        None => original.body.clone(),
    };
    let recorded_at = original.headers.get(header::TIMESTAMP).cloned();
    let mut headers = original.headers.clone();
    headers.set(header::EVENT_ID, delivery.event_id());
    headers.set(header::EVENT_TYPE, event_type);
    headers.set(header::TIMESTAMP, unix_millis(letter.created_at).to_string());
    headers.set(header::ERROR, letter.cause.clone());
    headers.set(header::ATTEMPTS, letter.attempts.to_string());
    headers.set(header::ORIGIN_TOPIC, original.topic.to_string());
    headers.set(header::ORIGIN_PARTITION, delivery.partition.to_string());
    headers.set(header::ORIGIN_OFFSET, delivery.offset.to_string());
    let origin = recorded_at.unwrap_or_else(|| Bytes::from(unix_millis(delivery.timestamp).to_string()));
    headers.set(header::ORIGIN_TIMESTAMP, origin);
    let topic = format!("{}{DEAD_LETTER_SUFFIX}", original.topic);
    Some(Message { topic: topic.into(), key: original.key.clone(), headers, body })
}

/// Whether this is the copy of a record that no handler ever saw (it could not be decoded, or its
/// type was unknown): the group that made the copy keeps it, and a second dead letter of what
/// nobody can read says nothing more.
pub(crate) fn is_refused_copy(delivery: &Delivery) -> bool {
    let Message { topic, headers, .. } = &delivery.message;
    topic.ends_with(DEAD_LETTER_SUFFIX) && headers.get_str(header::ATTEMPTS) == Some("0")
}

/// The text in one line, without control characters, at most [`CAUSE_BYTES_MAX`] long.
pub(crate) fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if line.len() > CAUSE_BYTES_MAX {
        line.truncate(line.floor_char_boundary(CAUSE_BYTES_MAX));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_has_no_line_breaks_and_a_limit() {
        assert_eq!(one_line("a\nb\r\0c"), "a b  c");
        assert_eq!(one_line(&"ü".repeat(CAUSE_BYTES_MAX)).len(), CAUSE_BYTES_MAX);
    }
}
