//! The idempotent producer: enqueues in order, settles by delivery reports, begins anew after a
//! fatal error.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use micro_core::{
    Error, ErrorKind, Result,
    broker::{Message, Receipt},
};
use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::KafkaError,
    message::{DeliveryResult, Message as _},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig},
    types::RDKafkaErrorCode as Code,
};
use tokio::sync::oneshot;

use crate::{
    client_log::ClientLog,
    error::from_kafka,
    known_topics::{Absence, KnownTopics, MISSING_MAX},
    receipts::{Call, OpenCalls, Ticket},
    record,
};

const OPERATION: &str = "broker.publish";
/// How often the poll thread looks up from its reports.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a session that is over is polled for the reports of its purge.
const PURGE_WAIT_MAX: Duration = Duration::from_secs(5);
/// The first and the longest wait before a session that could not be begun is tried again.
const BEGIN_DELAY_MIN: Duration = Duration::from_millis(100);
const BEGIN_DELAY_MAX: Duration = Duration::from_secs(5);

/// Publishes. Its clients live on threads of their own, where they may block.
pub(crate) struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    settings: ClientConfig,
    close_timeout: Duration,
    /// Replaced when its session is over. Held for reading while a call enqueues: so the thread
    /// that owns the old one is the last to hold it, and drops it where that may block.
    session: RwLock<Arc<Session>>,
    calls: Arc<OpenCalls>,
    known_topics: Arc<KnownTopics>,
    log: Arc<ClientLog>,
    is_closing: AtomicBool,
}

/// One client, from its creation to its end or its first fatal error.
type Session = BaseProducer<Reports>;

impl Producer {
    /// Starts a client. It connects by itself; nothing waits for that here.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when librdkafka does not take the settings.
    pub(crate) fn start(settings: ClientConfig, close_timeout: Duration) -> Result<Self> {
        let known_topics = Arc::default();
        let log = Arc::new(ClientLog::new("producer"));
        let session = begin(&settings, &log, &known_topics)?;
        let shared = Arc::new(Shared {
            settings,
            close_timeout,
            session: RwLock::new(session.clone()),
            calls: Arc::default(),
            known_topics,
            log,
            is_closing: AtomicBool::new(false),
        });
        run_in_thread(shared.clone(), session)?;
        Ok(Self { shared })
    }

    /// Hands messages to librdkafka, in slice order and without waiting; the results come out when
    /// the last report is in.
    pub(crate) fn enqueue(&self, messages: &[Message]) -> oneshot::Receiver<Vec<Result<Receipt>>> {
        let (call, results) = Call::open(self.shared.calls.clone(), messages.len());
        let session = self.shared.session.read().unwrap_or_else(PoisonError::into_inner);
        let mut is_full = false;
        for (index, message) in messages.iter().enumerate() {
            let ticket = Ticket::new(call.clone(), index, message.topic.clone());
            // A place may become free at any moment: nothing of this call may take it and so
            // overtake what was refused.
            let handed_in = match record::check(message) {
                Ok(()) if is_full => {
                    Err((from_kafka(OPERATION, KafkaError::MessageProduction(Code::QueueFull)), ticket))
                }
                Ok(()) => send(&session, message, ticket),
                Err(error) => Err((error, ticket)),
            };
            if let Err((error, ticket)) = handed_in {
                is_full |= error.kind() == ErrorKind::ResourceExhausted;
                ticket.settle(Err(error.with_context("topic", &message.topic)));
            }
        }
        results
    }

    /// The calls that have messages under way.
    pub(crate) fn calls(&self) -> &OpenCalls {
        &self.shared.calls
    }

    /// A topic that the brokers have: one that they do not know a little later is no fault of a
    /// message's.
    pub(crate) fn note_known(&self, topic: &str) {
        self.shared.known_topics.found(topic, || topic.into());
    }

    /// What the client last complained of.
    pub(crate) fn log(&self) -> &ClientLog {
        &self.shared.log
    }

    /// The client, for questions that block.
    pub(crate) fn session(&self) -> Arc<BaseProducer<Reports>> {
        self.shared.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Producer {
    /// What was handed in is sent for as long as `close_timeout`, in the background.
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::Relaxed);
    }
}

fn send(session: &Session, message: &Message, ticket: Ticket) -> std::result::Result<(), (Error, Ticket)> {
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

fn begin(settings: &ClientConfig, log: &Arc<ClientLog>, known_topics: &Arc<KnownTopics>) -> Result<Arc<Session>> {
    let reports = Reports { log: log.clone(), known_topics: known_topics.clone(), is_over: AtomicBool::new(false) };
    let session = BaseProducer::from_config_and_context(settings, reports);
    session.map(Arc::new).map_err(|error| from_kafka("broker.connect", error))
}

fn run_in_thread(shared: Arc<Shared>, session: Arc<Session>) -> Result<()> {
    let thread = thread::Builder::new().name("kafka-producer".to_owned());
    thread.spawn(move || run(&shared, session)).map(drop).map_err(|error| {
        Error::new(ErrorKind::ResourceExhausted, "broker.connect", "no thread can be started").with_source(error)
    })
}

/// The life of the poll thread: one session after the other.
fn run(shared: &Shared, mut session: Arc<Session>) {
    loop {
        while !shared.is_closing.load(Ordering::Relaxed) && !session.context().is_over.load(Ordering::Relaxed) {
            session.poll(POLL_INTERVAL);
        }
        if shared.is_closing.load(Ordering::Relaxed) {
            return finish(shared, &session);
        }
        let Some(next) = begin_again(shared) else { return };
        *shared.session.write().unwrap_or_else(PoisonError::into_inner) = next.clone();
        let old = std::mem::replace(&mut session, next);
        tracing::warn!(
            unsettled_count = old.in_flight_count(),
            "the producer's session ended; what it had not settled is to be sent again"
        );
        purge(&old);
    }
}

/// A new session, however often that takes; `None` when the producer is closed meanwhile.
fn begin_again(shared: &Shared) -> Option<Arc<Session>> {
    let mut delay = BEGIN_DELAY_MIN;
    while !shared.is_closing.load(Ordering::Relaxed) {
        match begin(&shared.settings, &shared.log, &shared.known_topics) {
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
    poll_until_settled(session, PURGE_WAIT_MAX);
}

fn finish(shared: &Shared, session: &Session) {
    poll_until_settled(session, shared.close_timeout);
    let left_count = session.in_flight_count();
    if left_count > 0 {
        tracing::warn!(left_count, "the producer was dropped before everything was sent");
        purge(session);
    }
}

fn poll_until_settled(session: &Session, wait_max: Duration) {
    let end = Instant::now() + wait_max;
    while session.in_flight_count() > 0 && Instant::now() < end {
        session.poll(Duration::from_millis(10));
    }
}

/// Takes librdkafka's reports.
pub(crate) struct Reports {
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
        let result = match report {
            Ok(message) => {
                self.known_topics.found(&ticket.topic, || ticket.topic.clone());
                Ok(Receipt { partition: message.partition(), offset: message.offset() })
            }
            Err((error, _)) => {
                let refusal = self.refusal(error.clone(), &ticket.topic, Instant::now());
                Err(refusal.with_context("topic", &ticket.topic))
            }
        };
        ticket.settle(result);
    }
}

impl Reports {
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
        let reports = Reports { log, known_topics: known_topics.clone(), is_over: AtomicBool::new(false) };
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
