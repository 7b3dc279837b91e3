//! Keyed messages through our broker, one a call: by callers that each wait for their receipt, or
//! with many on their way at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bench::{Failure, Result, worker::Turn};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use micro_broker_kafka::{Compression, KafkaBroker, KafkaConfig};
use micro_core::broker::{Broker as _, Message, Receipt};

use crate::turns::{self, in_loops};

/// What it publishes and how.
#[derive(Args)]
pub(crate) struct Options {
    /// `host:port` of a Kafka broker.
    #[arg(long)]
    kafka: String,
    #[arg(long)]
    topic: String,
    #[arg(long, value_enum)]
    form: Form,
    /// One task with as many messages on their way as a turn is wide; else as many tasks with one each.
    #[arg(long)]
    window: bool,
    /// Bytes of a body.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// How many keys take turns.
    #[arg(long, default_value_t = 1_000)]
    keys: usize,
    /// NAME=VALUE of each message's headers; may be repeated.
    #[arg(long = "header", value_parser = pair)]
    headers: Vec<(String, String)>,
}

/// What a record's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// go-micro's: headers and body as JSON.
    Envelope,
    /// The body itself.
    Native,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Makes the messages.
struct Source {
    topic: Arc<str>,
    body: Bytes,
    headers: Vec<(String, String)>,
    key_count: usize,
    number: AtomicUsize,
}

impl Source {
    fn next(&self) -> Vec<Message> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let message = Message::keyed(self.topic.clone(), (number % self.key_count).to_string(), self.body.clone());
        let with = |message: Message, (name, value): &(String, String)| message.with_header(name, value.clone());
        vec![self.headers.iter().fold(message, with)]
    }
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let mut config = KafkaConfig::new(&options.kafka);
    // As the plugin has it.
    config.compression = Compression::None;
    if options.form == Form::Envelope {
        config.envelope_topics = vec![options.topic.clone()];
    }
    let broker = KafkaBroker::connect(config).await?;
    let source = Arc::new(Source {
        topic: options.topic.into(),
        body: compressible(options.bytes),
        headers: options.headers,
        key_count: options.keys.max(1),
        number: AtomicUsize::new(0),
    });
    let sender = broker.clone();
    let turns = turns::run(async |turn| match options.window {
        // In a task: what main awaits runs outside the workers.
        true => tokio::spawn(in_window(turn, sender.clone(), source.clone())).await?,
        false => one_by_one(turn, &sender, &source).await,
    });
    turns.await?;
    Ok(broker.flush(Duration::from_secs(5)).await?)
}

/// Bytes of which half compress, other ones in each process.
fn compressible(count: usize) -> Bytes {
    let random = std::iter::repeat_with(uuid::Uuid::new_v4).flat_map(uuid::Uuid::into_bytes);
    random.take(count).enumerate().map(|(index, byte)| if index % 2 == 0 { byte } else { b'a' }).collect()
}

async fn one_by_one(turn: Turn, broker: &KafkaBroker, source: &Arc<Source>) -> Result<u64> {
    in_loops(turn, |_, task| {
        let (broker, source) = (broker.clone(), source.clone());
        async move {
            while task.goes_on() {
                expect_receipts(broker.publish(source.next()).await)?;
                task.add();
            }
            Ok(())
        }
    })
    .await
}

async fn in_window(turn: Turn, broker: KafkaBroker, source: Arc<Source>) -> Result<u64> {
    let end = Instant::now() + Duration::from_millis(turn.millis);
    let (mut outstanding, mut count) = (FuturesUnordered::new(), 0);
    while Instant::now() < end {
        if outstanding.len() >= turn.width
            && let Some(results) = outstanding.next().await
        {
            expect_receipts(results)?;
            count += 1;
        }
        outstanding.push(broker.publish(source.next()));
    }
    while let Some(results) = outstanding.next().await {
        expect_receipts(results)?;
        count += 1;
    }
    Ok(count)
}

fn expect_receipts(results: Vec<micro_core::Result<Receipt>>) -> Result<()> {
    for result in results {
        result.map_err(|error| Failure::from(error.report().to_string()))?;
    }
    Ok(())
}
