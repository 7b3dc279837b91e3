//! Several relays on one database, some of which die: nothing is lost and each key keeps its order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Health, Result, TransactionManagerExt as _,
    app::Component as _,
    broker::{Broker, Capabilities, Message, Receipt, SubscribeRequest, Subscription},
    outbox::{OutboxCounts, Relay},
};
use micro_testkit::eventually;
use micro_tx::SqlDatabase;

use crate::{
    on_servers,
    server::{Server, Site},
    sqlite::File,
};

const PATIENCE: Duration = Duration::from_secs(60);
const KEY_COUNT: u32 = 10;
const ROUND_COUNT: u32 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_take_over_from_each_other_on_mariadb() {
    if let Some(site) = on_servers::site(Server::Mariadb).await {
        relays_take_over_from_each_other(site).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_take_over_from_each_other_on_postgres() {
    if let Some(site) = on_servers::site(Server::Postgres).await {
        relays_take_over_from_each_other(site).await;
    }
}

/// Writes down what it took, by key; refuses what it does not know, and takes nothing of a topic that
/// is stuck.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<BTreeMap<String, Vec<u32>>>>, Arc<AtomicBool>);

#[async_trait]
impl Broker for Recorder {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Receipt>> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut taken = self.0.lock().unwrap();
        let take = |message: Message| {
            if message.topic.starts_with("stuck") {
                return Err(Error::new(ErrorKind::PermissionDenied, "recorder.publish", "no rights"));
            }
            if &*message.topic != "t" && !self.1.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::InvalidArgument, "recorder.publish", "no such topic"));
            }
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let seq = text(&message.body).parse().unwrap();
            taken.entry(text(message.key.as_ref().unwrap())).or_default().push(seq);
            Ok(Receipt { partition: 0, offset: 0 })
        };
        messages.into_iter().map(take).collect()
    }

    async fn subscribe(&self, _request: SubscribeRequest) -> Result<Arc<dyn Subscription>> {
        Err(Error::new(ErrorKind::Unimplemented, "recorder.subscribe", "sends only"))
    }

    async fn flush(&self, _deadline: Duration) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(true, true, true)
    }
}

async fn relays_take_over_from_each_other(site: Site) {
    let recorder = Recorder::default();
    let mut config = site.config();
    config.outbox_shard_count = 2;
    let mut relays = Vec::new();
    for _ in 0..3 {
        let database = site.database_with(config.clone()).await;
        let relay = Relay::builder(database.outbox(), Arc::new(recorder.clone())).build();
        relay.start(&Health::new()).await.unwrap();
        relays.push((database, relay));
    }
    let writer = site.database_with(config).await;
    for round in 0..ROUND_COUNT {
        let events: Vec<_> =
            (0..KEY_COUNT).map(|key| Message::keyed("t", format!("key-{key}"), round.to_string())).collect();
        retried(&writer, &events).await;
        if round % 10 == 5 {
            // The locks go with their connections.
            on_servers::kill_connections(&site, site.name()).await;
        }
        if round == 20 {
            // One ends as in a crash, one takes its leave.
            relays.remove(0);
            let (_database, relay) = relays.remove(0);
            relay.drain(Duration::from_secs(10)).await.unwrap();
            relay.close().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let outbox = writer.outbox();
    eventually(PATIENCE, "the outbox is empty", || async {
        outbox.counts().await.is_ok_and(|counts| counts == OutboxCounts::default())
    })
    .await;
    for (_database, relay) in &relays {
        relay.close().await.unwrap();
    }
    let taken = recorder.0.lock().unwrap();
    assert_eq!(taken.len(), usize::try_from(KEY_COUNT).unwrap());
    for (key, seqs) in taken.iter() {
        assert_eq!(first(seqs), (0..ROUND_COUNT).collect::<Vec<_>>(), "{key}: {seqs:?}");
    }
}

/// Without what was sent again, as it may be where a connection breaks or an answer takes too long.
fn first(seqs: &[u32]) -> Vec<u32> {
    let mut seen = std::collections::HashSet::new();
    seqs.iter().copied().filter(|seq| seen.insert(*seq)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_are_stuck_stop_no_other() {
    let file = File::new();
    topics_that_are_stuck_stop_none(file.database().await).await;
    for server in [Server::Mariadb, Server::Postgres] {
        if let Some(site) = on_servers::site(server).await {
            topics_that_are_stuck_stop_none(site.database().await).await;
        }
    }
}

/// Each of them has more rows than are kept in memory, before all of the other one's.
async fn topics_that_are_stuck_stop_none(database: SqlDatabase) {
    let recorder = Recorder::default();
    for topic in ["stuck-1", "stuck-2", "stuck-3"] {
        let events: Vec<_> = (0..5_000).map(|number: u32| Message::keyed(topic, number.to_string(), "0")).collect();
        retried(&database, &events).await;
    }
    let relay = Relay::builder(database.outbox(), Arc::new(recorder.clone())).build();
    relay.start(&Health::new()).await.unwrap();
    let events: Vec<_> =
        (0..1_000).map(|seq: u32| Message::keyed("t", (seq % 100).to_string(), seq.to_string())).collect();
    retried(&database, &events).await;
    let outbox = database.outbox();
    eventually(PATIENCE, "the other topic's are sent", || async {
        outbox.counts().await.is_ok_and(|counts| counts == OutboxCounts { unsent: 15_000, parked: 0 })
    })
    .await;
    let is_whole = |seqs: Vec<u32>| seqs.len() == 10 && seqs.is_sorted();
    assert!(recorder.0.lock().unwrap().values().all(|seqs| is_whole(first(seqs))));
    relay.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_rows_are_sent_in_order_after_their_release() {
    let file = File::new();
    parked_rows_are_sent_after_their_release(file.database().await).await;
    for server in [Server::Mariadb, Server::Postgres] {
        if let Some(site) = on_servers::site(server).await {
            parked_rows_are_sent_after_their_release(site.database().await).await;
        }
        // A pool of somebody else, of one connection.
        if let Some(site) = on_servers::site(server).await {
            let database = site.database_on_a_pool(site.address(), 1).await;
            parked_rows_are_sent_after_their_release(database).await;
        }
    }
}

async fn parked_rows_are_sent_after_their_release(database: SqlDatabase) {
    let (recorder, outbox) = (Recorder::default(), database.outbox());
    // More than are released at a time, parked long ago.
    let event = |number: u32| Message::keyed("missing", (number % 100).to_string(), (number / 100).to_string());
    retried(&database, &(0..1_000).map(event).collect::<Vec<_>>()).await;
    database.execute("UPDATE micro_outbox SET parked_at = 1, parked_cause = 'refused'", &[]).await.unwrap();
    let relay = Relay::builder(outbox.clone(), Arc::new(recorder.clone())).build();
    relay.start(&Health::new()).await.unwrap();
    let events: Vec<_> = (0..4).map(|number: u32| Message::keyed("missing", "a", number.to_string())).collect();
    retried(&database, &events).await;
    retried(&database, &[Message::keyed("t", "b", "7")]).await;
    let counts_are =
        async |parked| outbox.counts().await.is_ok_and(|counts| counts == OutboxCounts { unsent: 0, parked });
    eventually(PATIENCE, "the refused ones are parked, the other is sent", || counts_are(1_004)).await;
    assert_eq!(recorder.0.lock().unwrap().keys().collect::<Vec<_>>(), ["b"]);
    recorder.1.store(true, Ordering::Relaxed);
    assert_eq!(database.release_outbox().await.unwrap(), 1_004);
    eventually(PATIENCE, "they are sent", || counts_are(0)).await;
    assert_eq!(first(&recorder.0.lock().unwrap()["a"]), [0, 1, 2, 3]);
    for key in 0..100 {
        assert_eq!(first(&recorder.0.lock().unwrap()[&key.to_string()]), (0..10).collect::<Vec<_>>(), "{key}");
    }
    assert_eq!(database.release_outbox().await.unwrap(), 0);
    relay.close().await.unwrap();
}

/// Nothing is killed while it runs, so that no commit is of unknown outcome.
async fn retried(database: &SqlDatabase, events: &[Message]) {
    loop {
        match database.run(async |tx| database.outbox().add(tx, events).await).await {
            Ok(()) => return,
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            Err(error) => panic!("{}", error.report()),
        }
    }
}
