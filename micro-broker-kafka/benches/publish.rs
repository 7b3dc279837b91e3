//! Keyed publish through the port beside a raw producer with the same settings, in turn on one
//! server: 256 messages outstanding one by one, and 256 in one call after the other.
//!
//! `cargo bench -p micro-broker-kafka --bench publish`

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use dev_servers::{Kind, Server};
use futures_util::{StreamExt, stream::FuturesUnordered};
use micro_broker_kafka::{KafkaBroker, KafkaConfig, TopicSpec};
use micro_core::broker::{Broker, Message};
use rdkafka::{
    ClientConfig, ClientContext,
    producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer},
};

mod turns;
use turns::{Turn, cpu_seconds, memory_peak, show};

const PAIR_COUNT: usize = 12;
const OUTSTANDING_COUNT: usize = 256;
const KEY_COUNT: usize = 1_000;
const TOPIC: &str = "bench";

fn main() {
    let server = Server::start(Kind::Kafka).expect("a server");
    let servers = KafkaConfig::from_url(server.url()).expect("its URL").servers;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let config = KafkaConfig::new(&*servers);
    println!(
        "Kafka 3.9.1, one broker on the same two cores, 8 partitions, acks=all, idempotent, {:?}, linger {:?}, {} in flight",
        config.compression, config.linger, config.in_flight_count_max
    );
    let broker = runtime.block_on(async {
        let broker = KafkaBroker::connect(config.clone()).await.expect("a connection");
        broker.create_topics(&[TopicSpec::new(TOPIC, 8)]).await.expect("a topic");
        broker
    });
    let raw = Raw::start(&config);
    for (body_bytes, count) in [(100, 60_000), (1_024, 30_000)] {
        let body = body(body_bytes);
        let one_by_one = pairs(
            || runtime.block_on(spawned(one_by_one(broker.clone(), body.clone(), count))),
            || raw.window(&body, count),
        );
        show(&format!("{body_bytes} B, 256 outstanding, one a call"), &one_by_one.0, &one_by_one.1, 0.90);
        let batches = pairs(
            || runtime.block_on(spawned(in_batches(broker.clone(), body.clone(), count))),
            || raw.batches(&body, count),
        );
        show(&format!("{body_bytes} B, 256 a call, one call after the other"), &batches.0, &batches.1, 0.90);
    }
    println!("peak resident memory: {:.0} MiB", memory_peak());
}

/// In a task, as in a service: what main awaits runs outside the workers.
async fn spawned(work: impl Future<Output = Turn> + Send + 'static) -> Turn {
    tokio::spawn(work).await.expect("the bench does not panic")
}

/// A B B A; the first pair warms up and does not count.
fn pairs(mut ours: impl FnMut() -> Turn, mut raw: impl FnMut() -> Turn) -> (Vec<Turn>, Vec<Turn>) {
    let (mut of_ours, mut of_raw) = (Vec::new(), Vec::new());
    for pair in 0..=PAIR_COUNT {
        let (ours, raw) = if pair % 2 == 0 {
            let ours = ours();
            (ours, raw())
        } else {
            let raw = raw();
            (ours(), raw)
        };
        if pair > 0 {
            of_ours.push(ours);
            of_raw.push(raw);
        }
    }
    (of_ours, of_raw)
}

/// Half of it compresses.
fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| if index % 2 == 0 { fastrand::u8(..) } else { b'a' }).collect()
}

fn key(number: usize) -> String {
    (number % KEY_COUNT).to_string()
}

fn turn(began: Instant, cpu_began: f64, count: usize) -> Turn {
    let count = count as f64;
    Turn { rate: count / began.elapsed().as_secs_f64(), cpu: (cpu_seconds() - cpu_began) * 1e6 / count }
}

async fn one_by_one(broker: KafkaBroker, body: Vec<u8>, count: usize) -> Turn {
    let (topic, body): (Arc<str>, _) = (TOPIC.into(), bytes::Bytes::from(body));
    let (began, cpu_began) = (Instant::now(), cpu_seconds());
    let mut outstanding = FuturesUnordered::new();
    for number in 0..count {
        if outstanding.len() >= OUTSTANDING_COUNT {
            let results: Vec<_> = outstanding.next().await.expect("some are outstanding");
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        }
        outstanding.push(broker.publish(vec![Message::keyed(topic.clone(), key(number), body.clone())]));
    }
    while let Some(results) = outstanding.next().await {
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
    turn(began, cpu_began, count)
}

async fn in_batches(broker: KafkaBroker, body: Vec<u8>, count: usize) -> Turn {
    let (topic, body): (Arc<str>, _) = (TOPIC.into(), bytes::Bytes::from(body));
    let (began, cpu_began) = (Instant::now(), cpu_seconds());
    for first in (0..count).step_by(OUTSTANDING_COUNT) {
        let message = |number| Message::keyed(topic.clone(), key(number), body.clone());
        let messages = (first..count.min(first + OUTSTANDING_COUNT)).map(message).collect();
        let results = broker.publish(messages).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
    turn(began, cpu_began, count)
}

/// The driver alone: a thread that sends and one that polls.
struct Raw {
    producer: ThreadedProducer<Counting>,
    outstanding: Arc<AtomicUsize>,
}

struct Counting {
    outstanding: Arc<AtomicUsize>,
    sender: Thread,
    /// Whom to wake: when there is room, or when nothing is left.
    wakes_at: Arc<AtomicUsize>,
}

impl ClientContext for Counting {}

impl ProducerContext for Counting {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        assert!(result.is_ok(), "{result:?}");
        if self.outstanding.fetch_sub(1, Ordering::AcqRel) - 1 <= self.wakes_at.load(Ordering::Relaxed) {
            self.sender.unpark();
        }
    }
}

impl Raw {
    fn start(config: &KafkaConfig) -> Self {
        let outstanding = Arc::<AtomicUsize>::default();
        let wakes_at = Arc::new(AtomicUsize::new(OUTSTANDING_COUNT - 1));
        let context = Counting { outstanding: outstanding.clone(), sender: thread::current(), wakes_at };
        // What `KafkaConfig` tells librdkafka by default.
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &config.servers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("max.in.flight.requests.per.connection", config.in_flight_count_max.to_string())
            .set("partitioner", "fnv1a_random")
            .set("compression.type", "lz4")
            .set("linger.ms", config.linger.as_millis().to_string())
            .create_with_context(context)
            .expect("a producer");
        Self { producer, outstanding }
    }

    fn send(&self, key: &str, body: &[u8]) {
        self.outstanding.fetch_add(1, Ordering::AcqRel);
        self.producer.send(BaseRecord::to(TOPIC).key(key).payload(body)).expect("there is room");
    }

    fn wait_until(&self, count: usize) {
        while self.outstanding.load(Ordering::Acquire) > count {
            thread::park_timeout(Duration::from_millis(100));
        }
    }

    fn window(&self, body: &[u8], count: usize) -> Turn {
        let (began, cpu_began) = (Instant::now(), cpu_seconds());
        for number in 0..count {
            self.wait_until(OUTSTANDING_COUNT - 1);
            self.send(&key(number), body);
        }
        self.wait_until(0);
        turn(began, cpu_began, count)
    }

    fn batches(&self, body: &[u8], count: usize) -> Turn {
        let (began, cpu_began) = (Instant::now(), cpu_seconds());
        for first in (0..count).step_by(OUTSTANDING_COUNT) {
            (first..count.min(first + OUTSTANDING_COUNT)).for_each(|number| self.send(&key(number), body));
            self.wait_until(0);
        }
        turn(began, cpu_began, count)
    }
}
