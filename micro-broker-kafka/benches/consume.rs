//! A group of one that receives a backlog through the consumer, its service doing nothing, beside raw
//! poll loops with the same settings, in turn on one server: one that looks at the records in place,
//! and one that hands them to another thread.
//!
//! `cargo bench -p micro-broker-kafka --bench consume`

use std::{
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use dev_servers::{Kind, Server};
use micro_broker_kafka::{KafkaBroker, KafkaConfig, TopicSpec};
use micro_core::{
    Error, Health, Result,
    app::Component as _,
    broker::{Broker, Message},
    consume::{Consumer, DeliveryBatch},
};
use rdkafka::{
    ClientConfig, Message as _,
    consumer::{BaseConsumer, Consumer as _},
    message::OwnedMessage,
};
use tokio::sync::Notify;
use tower_service::Service;

mod turns;
use turns::{Turn, cpu_seconds, memory_peak, show};

const PAIR_COUNT: usize = 10;
const PARTITION_COUNT: u32 = 8;

fn main() {
    let server = Server::start(Kind::Kafka).expect("a server");
    let config = KafkaConfig::from_url(server.url()).expect("its URL");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("Kafka 3.9.1, one broker on the same two cores, {PARTITION_COUNT} partitions, lz4");
    let broker = runtime.block_on(KafkaBroker::connect(config.clone())).expect("a connection");
    for (body_bytes, count) in [(100, 400_000), (1_024, 150_000)] {
        let topic = format!("bench-{body_bytes}");
        runtime.block_on(fill(&broker, &topic, body_bytes, count));
        for (raw_name, raw_loop) in [("in place", poll_loop as RawLoop), ("handed over", poll_and_hand_over)] {
            let (mut ours, mut raw) = (Vec::new(), Vec::new());
            for pair in 0..=PAIR_COUNT {
                let group = format!("{topic}-{pair}-{raw_name}");
                let through_consumer = || runtime.block_on(consume(&broker, &group, &topic, count));
                let raw_loop = || raw_loop(&config, &format!("{group}-raw"), &topic, count);
                let (of_ours, of_raw) = if pair % 2 == 0 {
                    let of_ours = through_consumer();
                    (of_ours, raw_loop())
                } else {
                    let of_raw = raw_loop();
                    (through_consumer(), of_raw)
                };
                // The first pair warms up and does not count.
                if pair > 0 {
                    ours.push(of_ours);
                    raw.push(of_raw);
                }
            }
            show(&format!("{body_bytes} B, backlog of {count}, raw loop {raw_name}"), &ours, &raw, 0.85);
        }
        println!("peak resident memory: {:.0} MiB", memory_peak());
    }
}

async fn fill(broker: &KafkaBroker, topic: &str, body_bytes: usize, count: usize) {
    broker.create_topics(&[TopicSpec::new(topic, PARTITION_COUNT)]).await.expect("a topic");
    // Half of it compresses.
    let body: Vec<u8> = (0..body_bytes).map(|index| if index % 2 == 0 { fastrand::u8(..) } else { b'a' }).collect();
    let body = bytes::Bytes::from(body);
    for first in (0..count).step_by(10_000) {
        let messages = (first..first + 10_000).map(|key| Message::keyed(topic, key.to_string(), body.clone()));
        assert!(broker.publish(messages.collect()).await.iter().all(Result::is_ok));
    }
}

/// From the first batch to the last: joining the group does not count.
struct Count {
    left: AtomicUsize,
    begun: Mutex<Option<(Instant, f64, usize)>>,
    ended: Notify,
    total: usize,
}

#[derive(Clone)]
struct Counting(Arc<Count>);

impl Service<DeliveryBatch> for Counting {
    type Response = ();
    type Error = Error;
    type Future = Ready<Result<()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: DeliveryBatch) -> Self::Future {
        let count = batch.deliveries.len();
        let before = self.0.left.fetch_sub(count, Ordering::AcqRel);
        if before == self.0.total {
            *self.0.begun.lock().expect("no holder panics") = Some((Instant::now(), cpu_seconds(), count));
        }
        if before == count {
            self.0.ended.notify_one();
        }
        ready(Ok(()))
    }
}

async fn consume(broker: &KafkaBroker, group: &str, topic: &str, total: usize) -> Turn {
    let count = Arc::new(Count { left: AtomicUsize::new(total), begun: Mutex::default(), ended: Notify::new(), total });
    let service = Counting(count.clone());
    let consumer = Consumer::with_service(Arc::new(broker.clone()), group, [topic], service).build();
    consumer.start(&Health::new()).await.expect("a member starts");
    count.ended.notified().await;
    let (began, cpu_began, first_count) = count.begun.lock().expect("no holder panics").expect("a first batch");
    let turn = turn(began, cpu_began, total - first_count);
    consumer.drain(Duration::from_secs(10)).await.expect("a member drains");
    turn
}

fn turn(began: Instant, cpu_began: f64, count: usize) -> Turn {
    let count = count as f64;
    Turn { rate: count / began.elapsed().as_secs_f64(), cpu: (cpu_seconds() - cpu_began) * 1e6 / count }
}

type RawLoop = fn(&KafkaConfig, &str, &str, usize) -> Turn;

/// The driver alone, with what `KafkaConfig` tells librdkafka by default.
fn raw_consumer(config: &KafkaConfig, group: &str, topic: &str) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &config.servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.queue.backoff.ms", "20")
        .set("queued.max.messages.kbytes", (config.prefetch_bytes_max / 1024).to_string())
        .set("fetch.message.max.bytes", config.fetch_bytes_max.to_string())
        .create()
        .expect("a consumer");
    consumer.subscribe(&[topic]).expect("a subscription");
    consumer
}

/// Looks at key and body where librdkafka has them, on the thread that polls.
fn poll_loop(config: &KafkaConfig, group: &str, topic: &str, total: usize) -> Turn {
    let consumer = raw_consumer(config, group, topic);
    let (mut count, mut bytes, mut begun) = (0, 0, None);
    while count < total {
        let Some(record) = consumer.poll(Duration::from_secs(1)) else { continue };
        let record = record.expect("a record");
        bytes += record.payload().map_or(0, <[u8]>::len) + record.key().map_or(0, <[u8]>::len);
        count += 1;
        begun.get_or_insert_with(|| (Instant::now(), cpu_seconds()));
    }
    assert!(bytes > total);
    let (began, cpu_began) = begun.expect("a first record");
    turn(began, cpu_began, total - 1)
}

/// Hands each record to another thread as rdkafka's own owned message, with its headers: what a
/// handler on a runtime needs at the least.
fn poll_and_hand_over(config: &KafkaConfig, group: &str, topic: &str, total: usize) -> Turn {
    let consumer = raw_consumer(config, group, topic);
    let (hand_over, handed_over) = sync_channel::<Vec<OwnedMessage>>(16);
    let handler = thread::spawn(move || {
        handed_over.iter().flatten().map(|record| record.payload().map_or(0, <[u8]>::len)).sum::<usize>()
    });
    let (mut count, mut begun, mut chunk) = (0, None, Vec::with_capacity(256));
    while count < total {
        let Some(record) = consumer.poll(Duration::from_secs(1)) else { continue };
        chunk.push(record.expect("a record").detach());
        count += 1;
        begun.get_or_insert_with(|| (Instant::now(), cpu_seconds()));
        if chunk.len() == 256 || count == total {
            hand_over.send(std::mem::replace(&mut chunk, Vec::with_capacity(256))).expect("the handler runs");
        }
    }
    drop(hand_over);
    assert!(handler.join().expect("no panic") > total);
    let (began, cpu_began) = begun.expect("a first record");
    turn(began, cpu_began, total - 1)
}
