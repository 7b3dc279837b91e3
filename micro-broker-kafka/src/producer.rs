//! The idempotent producer: enqueues in order, settles by delivery reports, sends again what was
//! refused in the company of others.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use micro_core::{
    Error, ErrorKind, Result,
    broker::{Message, Receipt},
};
use rdkafka::{ClientConfig, error::KafkaError, types::RDKafkaErrorCode as Code};
use tokio::sync::oneshot;

use crate::{
    client_log::ClientLog,
    config::KafkaConfig,
    error::{from_kafka, is_of_batch, is_size},
    known_topics::KnownTopics,
    limits::Limits,
    receipts::{Call, OpenCalls, Ticket},
    record,
    session::{Line, Session},
    topics::{Cut, Flow, Step, Topic, Topics, Turn},
};

pub(crate) const OPERATION: &str = "broker.publish";

/// Publishes. Its clients live on threads of their own, where they may block.
pub(crate) struct Producer {
    shared: Arc<Shared>,
}

/// What the producer and its threads have in common.
pub(crate) struct Shared {
    pub(crate) settings: ClientConfig,
    config: KafkaConfig,
    /// By their cut; one is started when a topic needs it.
    lines: Mutex<BTreeMap<Cut, Arc<Line>>>,
    topics: Topics,
    limits: Limits,
    held: Held,
    calls: Arc<OpenCalls>,
    pub(crate) known_topics: Arc<KnownTopics>,
    pub(crate) log: Arc<ClientLog>,
    /// When the last handle was dropped.
    closing: Mutex<Option<Instant>>,
    has_ended: AtomicBool,
}

/// What waits for a [`Turn`], of all topics.
#[derive(Default)]
struct Held {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

type HandedIn = std::result::Result<(), (Error, Ticket)>;

impl Producer {
    /// Starts a client. It connects by itself; nothing waits for that here.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when librdkafka does not take the settings.
    pub(crate) fn start(config: &KafkaConfig) -> Result<Self> {
        let shared = Arc::new(Shared {
            settings: config.producer(),
            config: config.clone(),
            lines: Mutex::default(),
            topics: Topics::default(),
            limits: Limits::default(),
            held: Held::default(),
            calls: Arc::default(),
            known_topics: Arc::default(),
            log: Arc::new(ClientLog::new("producer")),
            closing: Mutex::default(),
            has_ended: AtomicBool::new(false),
        });
        shared.line(Cut::Usual)?;
        Ok(Self { shared })
    }

    /// Hands messages in, in slice order and without waiting; the results come out when the last
    /// report is in.
    pub(crate) fn enqueue(&self, messages: Vec<Message>) -> oneshot::Receiver<Vec<Result<Receipt>>> {
        let (call, results) = Call::open(self.shared.calls.clone(), messages);
        let mut is_full = false;
        let mut topic: Option<Arc<Topic>> = None;
        for (index, message) in call.messages().iter().enumerate() {
            if let Err(error) = record::check(message) {
                // Nobody asks the cluster about a name that none of its topics can have.
                let nowhere = Arc::new(Topic::new(message.topic.clone()));
                refuse(Ticket::new(call.clone(), index, nowhere), error);
                continue;
            }
            let topic = match &topic {
                Some(topic) if topic.name == message.topic => topic.clone(),
                _ => topic.insert(self.shared.topic(&message.topic)).clone(),
            };
            let ticket = Ticket::new(call.clone(), index, topic);
            // A place may become free at any moment: nothing of this call may take it and so
            // overtake what was refused.
            let handed_in = if is_full { Err((queue_full(), ticket)) } else { self.shared.hand_in(ticket) };
            if let Err((error, ticket)) = handed_in {
                is_full |= error.kind() == ErrorKind::ResourceExhausted;
                refuse(ticket, error);
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

    /// What the clients last complained of.
    pub(crate) fn log(&self) -> &ClientLog {
        &self.shared.log
    }

    /// The client, for questions that block.
    pub(crate) fn session(&self) -> Result<Arc<Session>> {
        self.shared.line(Cut::Usual).map(|line| line.session())
    }
}

impl Drop for Producer {
    /// What was handed in is sent for as long as `close_timeout`, in the background.
    fn drop(&mut self) {
        *self.shared.closing.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl Shared {
    fn line(self: &Arc<Self>, cut: Cut) -> Result<Arc<Line>> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(&cut) {
            return Ok(line.clone());
        }
        let line = Line::start(self, cut)?;
        lines.insert(cut, line.clone());
        Ok(line)
    }

    fn topic(self: &Arc<Self>, name: &Arc<str>) -> Arc<Topic> {
        let (topic, is_new) = self.topics.of(name);
        if is_new && !self.limits.ask(self, &topic) {
            self.answered(&topic, None);
        }
        topic
    }

    /// Hands a message to librdkafka, or to those that wait for the topic's turn.
    fn hand_in(self: &Arc<Self>, ticket: Ticket) -> HandedIn {
        let topic = ticket.topic.clone();
        let mut flow = topic.flow();
        match &mut flow.turn {
            Some(turn) => self.hold(turn, ticket),
            None => self.send(&mut flow, None, ticket),
        }
    }

    fn hold(&self, turn: &mut Turn, ticket: Ticket) -> HandedIn {
        if self.has_ended.load(Ordering::Relaxed) {
            return Err((closed(), ticket));
        }
        let (count_max, bytes_max) = (self.config.queue_count_max.max(1), self.config.queue_bytes_max);
        let is_full = self.held.count.load(Ordering::Relaxed) >= count_max as usize
            || self.held.bytes.load(Ordering::Relaxed) as u64 >= bytes_max;
        if is_full {
            return Err((queue_full(), ticket));
        }
        self.held.add(&ticket);
        turn.held.push_back(ticket);
        Ok(())
    }

    /// By the client of `cut`, or else of the topic's.
    fn send(self: &Arc<Self>, flow: &mut Flow, cut: Option<Cut>, mut ticket: Ticket) -> HandedIn {
        let line = match self.line(cut.unwrap_or(flow.cut)) {
            Ok(line) => line,
            Err(error) => return Err((error, ticket)),
        };
        ticket.set_out(true);
        match line.send(ticket) {
            Ok(()) => {
                flow.out_count += 1;
                Ok(())
            }
            Err((error, mut ticket)) => {
                ticket.set_out(false);
                Err((error, ticket))
            }
        }
    }

    /// Takes the report of a message that the client of `cut` had.
    pub(crate) fn reported(
        self: &Arc<Self>,
        mut ticket: Ticket,
        cut: Cut,
        result: Result<Receipt>,
        code: Option<Code>,
    ) {
        let topic = ticket.topic.clone();
        let mut flow = topic.flow();
        ticket.set_out(false);
        flow.out_count -= 1;
        let settled = if code.is_some_and(is_of_batch) && !self.was_alone(&ticket, cut) {
            self.refused_in_company(&mut flow, ticket, code.is_some_and(is_size))
        } else {
            if let Some(turn) = &mut flow.turn {
                match turn.step {
                    Step::Resending => turn.is_cut_too_large |= ticket.was_too_large && result.is_ok(),
                    _ => turn.note_sent(&ticket),
                }
            }
            Some((ticket, result))
        };
        self.advance(&topic, &mut flow);
        drop(flow);
        if let Some((ticket, result)) = settled {
            ticket.settle(result);
        }
    }

    /// Whether a message must have had a batch for itself: nothing is added to one that is full.
    fn was_alone(&self, ticket: &Ticket, cut: Cut) -> bool {
        let batch_bytes = match cut {
            Cut::Bytes(bytes) => bytes,
            Cut::Usual => self.config.batch_bytes(),
        };
        cut == Cut::ALONE || ticket.bytes() >= batch_bytes as usize
    }

    /// Keeps a message to be sent again, alone.
    fn refused_in_company(
        &self,
        flow: &mut Flow,
        mut ticket: Ticket,
        is_too_large: bool,
    ) -> Option<(Ticket, Result<Receipt>)> {
        if self.has_ended.load(Ordering::Relaxed) {
            return Some((ticket, Err(closed())));
        }
        ticket.was_too_large = is_too_large;
        self.held.add(&ticket);
        flow.turn.get_or_insert_with(|| Turn::new(Step::Draining)).refuse(ticket);
        None
    }

    /// Goes on with a topic's turn as far as nothing has to be waited for.
    fn advance(self: &Arc<Self>, topic: &Arc<Topic>, flow: &mut Flow) {
        while flow.out_count == 0 {
            let Some(turn) = &mut flow.turn else { return };
            match turn.step {
                Step::Asking => return,
                Step::Draining => {
                    turn.step = Step::Resending;
                    let refused = turn.take_refused();
                    turn.is_limit_doubtful = refused.iter().any(|(ticket, can)| !can && ticket.was_too_large);
                    self.resend(flow, refused);
                }
                Step::Resending if turn.is_cut_too_large || turn.is_limit_doubtful => {
                    turn.step = Step::Asking;
                    if !self.limits.ask(self, topic) {
                        self.go_on(flow, None);
                    }
                }
                Step::Resending => self.release(flow),
            }
        }
    }

    /// Goes on with every turn whose last message ended without a report.
    pub(crate) fn advance_all(self: &Arc<Self>) {
        for topic in self.topics.all() {
            self.advance(&topic, &mut topic.flow());
        }
    }

    fn resend(self: &Arc<Self>, flow: &mut Flow, refused: Vec<(Ticket, bool)>) {
        let refused = refused.into_iter().map(|(ticket, can_follow)| (ticket, (!can_follow).then(overtaken)));
        self.send_all(flow, Some(Cut::ALONE), refused);
    }

    /// Takes the limit of a topic that was asked for; `None` where there was no answer.
    pub(crate) fn answered(self: &Arc<Self>, topic: &Topic, limit: Option<u32>) {
        let mut flow = topic.flow();
        if flow.turn.as_ref().is_some_and(|turn| turn.step == Step::Asking) {
            self.go_on(&mut flow, limit);
        }
    }

    /// Chooses the topic's client, and sends what waited through it.
    fn go_on(self: &Arc<Self>, flow: &mut Flow, limit: Option<u32>) {
        let is_cut_too_large = flow.turn.as_ref().is_some_and(|turn| turn.is_cut_too_large);
        flow.cut = flow.cut.for_limit(limit, self.config.batch_bytes(), is_cut_too_large);
        self.release(flow);
    }

    fn release(self: &Arc<Self>, flow: &mut Flow) {
        let held = flow.turn.take().map(|turn| turn.held).unwrap_or_default();
        self.send_all(flow, None, held.into_iter().map(|ticket| (ticket, None)));
    }

    /// Sends what waited, in order; each may have a reason not to be sent. Where the queue is full
    /// nothing of the rest is sent, for it would overtake.
    fn send_all(
        self: &Arc<Self>,
        flow: &mut Flow,
        cut: Option<Cut>,
        waiting: impl Iterator<Item = (Ticket, Option<Error>)>,
    ) {
        let mut is_full = false;
        for (ticket, reason) in waiting {
            self.held.take(&ticket);
            let sent = match reason.or_else(|| self.too_old(&ticket)) {
                Some(reason) => Err((reason, ticket)),
                None if is_full => Err((queue_full(), ticket)),
                None => self.send(flow, cut, ticket),
            };
            if let Err((error, ticket)) = sent {
                is_full |= error.kind() == ErrorKind::ResourceExhausted;
                refuse(ticket, error);
            }
        }
    }

    fn too_old(&self, ticket: &Ticket) -> Option<Error> {
        let is_old = ticket.age() > self.config.delivery_timeout;
        is_old.then(|| from_kafka(OPERATION, KafkaError::MessageProduction(Code::MessageTimedOut)))
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether everything is settled, or closing has taken as long as it may.
    pub(crate) fn is_finished(&self) -> bool {
        let closing = *self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        self.calls.message_count() == 0 || closing.is_some_and(|began| began.elapsed() > self.config.close_timeout)
    }

    /// Settles what waits for a turn: nothing is sent from now on.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
        let left_count = self.calls.message_count();
        if left_count > 0 {
            tracing::warn!(left_count, "the producer was dropped before everything was sent");
        }
        for topic in self.topics.all() {
            let turn = topic.flow().turn.take();
            // Its tickets settle when they are dropped.
            drop(turn);
        }
    }

    pub(crate) fn config(&self) -> &KafkaConfig {
        &self.config
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl Held {
    fn add(&self, ticket: &Ticket) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(ticket.bytes(), Ordering::Relaxed);
    }

    fn take(&self, ticket: &Ticket) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(ticket.bytes(), Ordering::Relaxed);
    }
}

fn refuse(ticket: Ticket, error: Error) {
    let error = error.with_context("topic", &ticket.topic.name);
    ticket.settle(Err(error));
}

fn queue_full() -> Error {
    from_kafka(OPERATION, KafkaError::MessageProduction(Code::QueueFull))
}

fn closed() -> Error {
    from_kafka(OPERATION, KafkaError::MessageProduction(Code::PurgeQueue))
}

fn overtaken() -> Error {
    let message = "the broker refused the batch of this message because of another one in it, and a later message of \
                   its key is sent already; nothing of this one is written";
    Error::new(ErrorKind::Aborted, OPERATION, message)
}
