//! The idempotent producer: enqueues in order, settles by delivery reports, begins anew after a
//! fatal error.

use std::{
    collections::HashSet,
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

/// The topics that the brokers had in this process's time.
type KnownTopics = RwLock<HashSet<Arc<str>>>;

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

    /// A topic that the brokers have: one that they do not know later is no fault of a message's.
    pub(crate) fn note_known(&self, topic: &str) {
        note_known(&self.shared.known_topics, topic, || topic.into());
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
    session
        .send(record)
        .map_err(|(error, record)| (session.context().refusal(error, &message.topic), *record.delivery_opaque))
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

fn note_known(known_topics: &KnownTopics, topic: &str, owned: impl FnOnce() -> Arc<str>) {
    if !known_topics.read().unwrap_or_else(PoisonError::into_inner).contains(topic) {
        known_topics.write().unwrap_or_else(PoisonError::into_inner).insert(owned());
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
                note_known(&self.known_topics, &ticket.topic, || ticket.topic.clone());
                Ok(Receipt { partition: message.partition(), offset: message.offset() })
            }
            Err((error, _)) => Err(self.refusal(error.clone(), &ticket.topic).with_context("topic", &ticket.topic)),
        };
        ticket.settle(result);
    }
}

impl Reports {
    fn is_known(&self, topic: &str) -> bool {
        self.known_topics.read().unwrap_or_else(PoisonError::into_inner).contains(topic)
    }

    fn refusal(&self, error: KafkaError, topic: &str) -> Error {
        // No message names a partition: one that is unknown is a topic that has none (any more).
        let is_missing = matches!(
            error.rdkafka_error_code(),
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition)
        );
        if is_missing && self.is_known(topic) {
            // A broker that has just come up may not know its topics yet. What it took before is
            // there or is missed by everybody: no fault of this message, which must not be set aside.
            let message = "the brokers do not know a topic that they knew before";
            return Error::new(ErrorKind::Unavailable, OPERATION, message).with_source(error);
        }
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            self.is_over.store(true, Ordering::Relaxed);
        }
        from_kafka(OPERATION, error)
    }
}
