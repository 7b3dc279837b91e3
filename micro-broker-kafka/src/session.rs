//! One client of librdkafka's producer: begins, is polled by a thread of its own, takes reports,
//! begins anew after a fatal error.

use std::{
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use micro_core::{Error, ErrorKind, Result, broker::Receipt};
use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::KafkaError,
    message::{DeliveryResult, Message as _},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig},
    types::RDKafkaErrorCode as Code,
};

use crate::{
    client_log::ClientLog,
    error::from_kafka,
    known_topics::{Absence, KnownTopics, MISSING_MAX},
    producer::{OPERATION, Shared},
    receipts::Ticket,
    record,
    topics::Cut,
};

/// How often the poll thread looks up from its reports.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a session that is over is polled for the reports of its purge.
const PURGE_WAIT_MAX: Duration = Duration::from_secs(5);
/// The first and the longest wait before a session that could not be begun is tried again.
const BEGIN_DELAY_MIN: Duration = Duration::from_millis(100);
const BEGIN_DELAY_MAX: Duration = Duration::from_secs(5);

/// A client, from its creation to its end or its first fatal error.
pub(crate) type Session = BaseProducer<Reports>;

/// The sessions that cut their batches alike, one after the other.
pub(crate) struct Line {
    cut: Cut,
    settings: ClientConfig,
    /// Replaced when its session is over. Held for reading while a message is handed in: so the
    /// thread that owns the old one is the last to hold it, and drops it where that may block.
    session: RwLock<Arc<Session>>,
}

impl Line {
    /// Begins the first session and the thread that polls it.
    pub(crate) fn start(shared: &Arc<Shared>, cut: Cut) -> Result<Arc<Self>> {
        let mut settings = shared.settings.clone();
        if let Cut::Bytes(bytes) = cut {
            settings.set("batch.size", bytes.to_string());
        }
        if cut == Cut::ALONE {
            // Requests are small here. Five is what an idempotent producer can keep in order.
            settings.set("batch.num.messages", "1").set("max.in.flight.requests.per.connection", "5");
        }
        let session = begin(shared, cut, &settings)?;
        let line = Arc::new(Self { cut, settings, session: RwLock::new(session.clone()) });
        let (shared, polled) = (shared.clone(), line.clone());
        let thread = thread::Builder::new().name("kafka-producer".to_owned());
        thread.spawn(move || run(&shared, &polled, session)).map(|_| line).map_err(|error| {
            Error::new(ErrorKind::ResourceExhausted, "broker.connect", "no thread can be started").with_source(error)
        })
    }

    /// The client, for questions that block.
    pub(crate) fn session(&self) -> Arc<Session> {
        self.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands a message to librdkafka, without waiting.
    pub(crate) fn send(&self, ticket: Ticket) -> std::result::Result<(), (Error, Ticket)> {
        let session = self.session.read().unwrap_or_else(PoisonError::into_inner);
        // The record borrows from what travels with it.
        let (call, index) = ticket.place();
        let message = &call.messages()[index];
        let record = BaseRecord {
            topic: &message.topic,
            partition: None,
            payload: Some(&message.body[..]),
            key: message.key.as_deref(),
            timestamp: None,
            headers: record::headers_of(message),
            delivery_opaque: Box::new(ticket),
        };
        session.send(record).map_err(|(error, record)| {
            (session.context().refusal(error, &message.topic, Instant::now()), *record.delivery_opaque)
        })
    }
}

fn begin(shared: &Arc<Shared>, cut: Cut, settings: &ClientConfig) -> Result<Arc<Session>> {
    let reports = Reports::new(Arc::downgrade(shared), cut, shared.log.clone(), shared.known_topics.clone());
    let session = BaseProducer::from_config_and_context(settings, reports);
    session.map(Arc::new).map_err(|error| from_kafka("broker.connect", error))
}

/// The life of the poll thread: one session after the other.
fn run(shared: &Arc<Shared>, line: &Line, mut session: Arc<Session>) {
    loop {
        while !shared.is_closing() && !session.context().is_over.load(Ordering::Relaxed) {
            session.poll(POLL_INTERVAL);
        }
        let Some(next) = begin_again(shared, line) else { return finish(shared, line, &session) };
        *line.session.write().unwrap_or_else(PoisonError::into_inner) = next.clone();
        let old = std::mem::replace(&mut session, next);
        tracing::warn!(
            unsettled_count = old.in_flight_count(),
            "the producer's session ended; what it had not settled is to be sent again"
        );
        purge(&old);
        drop(old);
        shared.advance_all();
    }
}

/// A new session, however often that takes; `None` when the producer is closed meanwhile.
fn begin_again(shared: &Arc<Shared>, line: &Line) -> Option<Arc<Session>> {
    let mut delay = BEGIN_DELAY_MIN;
    while !shared.is_closing() {
        match begin(shared, line.cut, &line.settings) {
            Ok(session) => return Some(session),
            Err(error) => tracing::warn!(error = %error.report(), "no new session of the producer"),
        }
        thread::park_timeout(delay);
        delay = (delay * 2).min(BEGIN_DELAY_MAX);
    }
    None
}

/// Everything the session still has comes back with an error.
fn purge(session: &Session) {
    session.purge(PurgeConfig::default().queue().inflight());
    let end = Instant::now() + PURGE_WAIT_MAX;
    while session.in_flight_count() > 0 && Instant::now() < end {
        session.poll(Duration::from_millis(10));
    }
}

/// What was handed in is sent, for as long as the producer's close may take. What is to be sent
/// again may come from another line: all go on until nothing is unsettled.
fn finish(shared: &Shared, line: &Line, session: &Session) {
    while !shared.is_finished() {
        session.poll(Duration::from_millis(10));
    }
    if line.cut == Cut::Usual {
        shared.end();
    }
    if session.in_flight_count() > 0 {
        purge(session);
    }
}

/// Takes librdkafka's reports.
pub(crate) struct Reports {
    shared: Weak<Shared>,
    cut: Cut,
    log: Arc<ClientLog>,
    known_topics: Arc<KnownTopics>,
    /// A fatal error: an idempotent producer sends nothing more after one.
    is_over: AtomicBool,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.log.line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(&error, reason);
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            self.is_over.store(true, Ordering::Relaxed);
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, report: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let (result, code) = match report {
            Ok(message) => {
                self.known_topics.found(&ticket.topic.name, || ticket.topic.name.clone());
                (Ok(Receipt { partition: message.partition(), offset: message.offset() }), None)
            }
            Err((error, _)) => {
                let refusal = self.refusal(error.clone(), &ticket.topic.name, Instant::now());
                (Err(refusal.with_context("topic", &ticket.topic.name)), error.rdkafka_error_code())
            }
        };
        // Without it the producer has ended, and the ticket says so.
        if let Some(shared) = self.shared.upgrade() {
            shared.reported(*ticket, self.cut, result, code);
        }
    }
}

impl Reports {
    fn new(shared: Weak<Shared>, cut: Cut, log: Arc<ClientLog>, known_topics: Arc<KnownTopics>) -> Self {
        Self { shared, cut, log, known_topics, is_over: AtomicBool::new(false) }
    }

    fn refusal(&self, error: KafkaError, topic: &str, now: Instant) -> Error {
        // No message names a partition: one that is unknown is a topic that has none (any more).
        let is_missing = matches!(
            error.rdkafka_error_code(),
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition)
        );
        if is_missing {
            match self.known_topics.missed(topic, now) {
                Absence::NeverSeen => {}
                // A broker that has just come up may not know its topics yet. What it took before is
                // there or is missed by everybody: no fault of this message, which must not be set
                // aside.
                Absence::MayPass => {
                    let message = "the brokers do not know a topic that they knew before";
                    return Error::new(ErrorKind::Unavailable, OPERATION, message).with_source(error);
                }
                // It does not come back by itself, and a relay that tried again for ever would hold up
                // all other topics of a shard behind it.
                Absence::Lasts => {
                    let message = "the topic was deleted: the brokers knew it before and have been without it for \
                                   longer than missing_max_s";
                    return Error::new(ErrorKind::InvalidArgument, OPERATION, message)
                        .with_context("missing_max_s", MISSING_MAX.as_secs())
                        .with_source(error);
                }
            }
        }
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            self.is_over.store(true, Ordering::Relaxed);
        }
        from_kafka(OPERATION, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A topic that was deleted for good is refused in the end, so that a relay parks its rows.
    #[test]
    fn a_topic_that_stays_away_is_refused_after_two_minutes_as_one_that_never_was() {
        let known_topics = Arc::new(KnownTopics::default());
        let log = Arc::new(ClientLog::new("producer"));
        let reports = Reports::new(Weak::new(), Cut::Usual, log, known_topics.clone());
        let began = Instant::now();
        let refusal = |code, seconds| {
            let error = KafkaError::MessageProduction(code);
            reports.refusal(error, "orders", began + Duration::from_secs(seconds))
        };
        let kinds = |seconds: [u64; 4]| seconds.map(|seconds| refusal(Code::UnknownTopic, seconds).kind());
        let (passing, lasting) = (ErrorKind::Unavailable, ErrorKind::InvalidArgument);
        assert_eq!(kinds([0; 4]), [lasting; 4], "never seen");
        known_topics.found("orders", || "orders".into());
        assert_eq!(kinds([0, 60, 120, 121]), [passing, passing, passing, lasting]);
        for code in [Code::UnknownTopicOrPartition, Code::UnknownPartition] {
            let error = refusal(code, 121);
            assert_eq!(error.kind(), lasting, "{code:?}");
            assert!(
                error.report().contains("deleted") && error.report().contains("missing_max_s=120"),
                "{}",
                error.report()
            );
        }
        assert_eq!(refusal(Code::MessageTimedOut, 122).kind(), ErrorKind::DeadlineExceeded);
        known_topics.found("orders", || "orders".into());
        assert_eq!(kinds([123, 180, 243, 244]), [passing, passing, passing, lasting]);
    }
}
