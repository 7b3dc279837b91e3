//! Watches a service: a listing, then the changes from its revision on, and a listing again where
//! changes may have been missed.

use std::collections::{BTreeMap, HashMap};

use etcd_client::{GetResponse, KeyValue};
use micro_core::{
    Error, ErrorKind, Result,
    registry::{Instance, InstanceChange, InstanceWatch, Outage},
};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep, sleep_until},
};

use crate::{
    client::Client,
    limits::{ANSWER_BYTES_MAX, INSTANCE_BYTES, INSTANCES_MAX},
    record::Reader,
};

/// The longest wait after a failure; at first it is 200 ms.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Between a watch that was behind and the listing, lest a server that compacts all the time is asked
/// without a pause.
const COMPACTED_PAUSE: Duration = Duration::from_millis(50);

/// A watch that went on for this long ends the outage before it. One that is cut sooner is a part of it,
/// so that a proxy that cuts every watch is met with growing pauses and is logged once.
const LIVED: Duration = Duration::from_secs(30);

/// The instances of a service by their keys, at a revision of etcd's.
#[derive(Debug)]
pub(crate) struct Listing {
    by_key: BTreeMap<Vec<u8>, Vec<Instance>>,
    /// The bytes of the values that those were read from, and their sum.
    sizes: HashMap<Vec<u8>, usize>,
    bytes: usize,
    revision: i64,
    reader: Reader,
}

impl Listing {
    fn empty(revision: i64) -> Self {
        Self { by_key: BTreeMap::new(), sizes: HashMap::new(), bytes: 0, revision, reader: Reader::default() }
    }

    pub(crate) async fn of(client: &Client, operation: &'static str, service: &str) -> Result<Self> {
        let answer = client.list(operation, &client.config.service_prefix(service)).await?;
        let mut listing = Self::empty(revision(&answer));
        for held in answer.kvs() {
            let instances = listing.read(client, service, held);
            if instances.is_empty() {
                listing.forget_size(held.key());
            } else {
                listing.by_key.insert(held.key().to_vec(), instances);
            }
        }
        Ok(listing)
    }

    /// The instances of a key; none where there is no room for it.
    fn read(&mut self, client: &Client, service: &str, held: &KeyValue) -> Vec<Instance> {
        let (instances, reasons) = client.config.read(&mut self.reader, service, held.key(), held.value());
        // A value has its version once, and each of its instances has it again.
        let taken: usize = instances.iter().map(|instance| INSTANCE_BYTES + instance.version.len()).sum();
        if let Err(reason) = self.make_room(held.key(), held.value().len() + taken) {
            client.complaints.say(client.config.service_prefix(service).as_bytes(), vec![reason]);
            return Vec::new();
        }
        client.complaints.say(held.key(), reasons);
        instances
    }

    /// Counts a key's value, of so many bytes, in place of the one before; or says why there is no room
    /// for it. A watch adds up what no answer could hold.
    fn make_room(&mut self, key: &[u8], size: usize) -> std::result::Result<(), String> {
        self.forget_size(key);
        if self.sizes.len() >= INSTANCES_MAX {
            return Err(format!("of more than {INSTANCES_MAX} keys the rest is left out"));
        }
        if self.bytes + size > ANSWER_BYTES_MAX {
            return Err(format!("of more than {ANSWER_BYTES_MAX} bytes the rest is left out"));
        }
        self.bytes += size;
        self.sizes.insert(key.to_vec(), size);
        Ok(())
    }

    fn forget_size(&mut self, key: &[u8]) {
        self.bytes -= self.sizes.remove(key).unwrap_or_default();
    }

    /// Sorted by id, each id once.
    pub(crate) fn instances(&self) -> Vec<Instance> {
        let mut instances: Vec<_> = self.by_key.values().flatten().cloned().collect();
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        instances.dedup_by(|a, b| a.id == b.id);
        instances
    }

    /// Takes a change of one key in, and says what it means for the instances.
    fn apply(&mut self, key: &[u8], now: Vec<Instance>) -> Vec<InstanceChange> {
        let before = if now.is_empty() {
            self.forget_size(key);
            self.by_key.remove(key).unwrap_or_default()
        } else {
            self.by_key.insert(key.to_vec(), now.clone()).unwrap_or_default()
        };
        let is_known = |id: &str| self.by_key.values().flatten().any(|instance| instance.id == id);
        let gone = before.iter().filter(|instance| !is_known(&instance.id));
        let removed: Vec<_> = gone.map(|instance| InstanceChange::Removed(instance.id.clone())).collect();
        let put = now.into_iter().filter(|instance| !before.contains(instance)).map(InstanceChange::Put);
        removed.into_iter().chain(put).collect()
    }
}

fn revision(answer: &GetResponse) -> i64 {
    answer.header().map_or(0, etcd_client::ResponseHeader::revision)
}

/// Begins a watch with a snapshot. Its task goes on through failures and ends with the watch.
pub(crate) async fn begin(client: Client, service: String) -> Result<InstanceWatch> {
    let listing = Listing::of(&client, OPERATION, &service).await?;
    let (changes, watch) = InstanceWatch::channel();
    let follower = Follower { client, service, changes: changes.clone() };
    tokio::spawn(async move {
        tokio::select! {
            () = changes.closed() => {}
            _ = follower.run(listing) => {}
        }
    });
    Ok(watch)
}

const OPERATION: &str = "registry.watch";

/// Nobody listens any more.
struct Unheard;

struct Follower {
    client: Client,
    service: String,
    changes: mpsc::Sender<InstanceChange>,
}

impl Follower {
    async fn run(&self, first: Listing) -> std::result::Result<(), Unheard> {
        self.tell(InstanceChange::Snapshot(first.instances())).await?;
        let mut told = first;
        let mut outage = Outage::new("etcd", "watch", &self.service, PAUSE_MAX);
        loop {
            let began = Instant::now();
            let ended = self.follow(&mut told).await?;
            if began.elapsed() >= LIVED.min(self.client.config.relist_interval) {
                outage.ended();
            }
            if let Ended::Failed(error) = ended {
                sleep(outage.failed(&error)).await;
            }
            told = self.list_again(&told, &mut outage).await?;
        }
    }

    /// Lists until that succeeds: a watch from an old revision would not tell what is true now. The
    /// instances are stale only while they cannot be listed, whatever becomes of watches.
    async fn list_again(&self, told: &Listing, outage: &mut Outage) -> std::result::Result<Listing, Unheard> {
        let mut is_stale = false;
        loop {
            match Listing::of(&self.client, OPERATION, &self.service).await {
                Ok(listing) => {
                    if is_stale {
                        outage.ended();
                    }
                    if is_stale || listing.by_key != told.by_key {
                        self.tell(InstanceChange::Snapshot(listing.instances())).await?;
                    }
                    return Ok(listing);
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_stale, true) {
                        // Without its causes, which differ from one attempt to the next.
                        self.tell(InstanceChange::Stale(error.to_string())).await?;
                    }
                    sleep(outage.failed(&error)).await;
                }
            }
        }
    }

    /// Tells changes from behind `told` on, which it keeps up to date, until some may be missing.
    async fn follow(&self, told: &mut Listing) -> std::result::Result<Ended, Unheard> {
        let prefix = self.client.config.service_prefix(&self.service);
        let mut stream = match self.client.watch(OPERATION, &prefix, told.revision + 1).await {
            Ok(stream) => stream,
            Err(error) => return Ok(Ended::Failed(error)),
        };
        let relist_at = Instant::now() + self.client.config.relist_interval;
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                // etcd's watches have lost events, and hung: what is listed is what is true.
                () = sleep_until(relist_at) => return Ok(Ended::Missed),
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(Ended::Failed(self.broken("etcd ended the watch", ""))),
                Err(cause) => return Ok(Ended::Failed(self.client.failed(OPERATION, cause))),
            };
            if message.compact_revision() > 0 {
                // What happened before it cannot be told any more: it has to be listed.
                tracing::debug!(service = self.service, revision = message.compact_revision(), "a watch is behind");
                sleep(COMPACTED_PAUSE).await;
                return Ok(Ended::Missed);
            }
            if message.canceled() {
                return Ok(Ended::Failed(self.broken("etcd ended the watch", message.cancel_reason())));
            }
            self.tell_events(&message, told).await?;
            told.revision = told.revision.max(message.header().map_or(0, etcd_client::ResponseHeader::revision));
        }
    }

    async fn tell_events(
        &self,
        message: &etcd_client::WatchResponse,
        told: &mut Listing,
    ) -> std::result::Result<(), Unheard> {
        for held in message.events().iter().filter_map(etcd_client::Event::kv) {
            // A deleted key has no version and no value.
            let now = if held.version() == 0 { Vec::new() } else { told.read(&self.client, &self.service, held) };
            for change in told.apply(held.key(), now) {
                self.tell(change).await?;
            }
        }
        Ok(())
    }

    fn broken(&self, message: &'static str, reason: &str) -> Error {
        let error = Error::new(ErrorKind::Unavailable, OPERATION, message);
        let error = if reason.is_empty() { error } else { error.with_context("reason", reason) };
        self.client.with_servers(error)
    }

    async fn tell(&self, change: InstanceChange) -> std::result::Result<(), Unheard> {
        self.changes.send(change).await.map_err(|_| Unheard)
    }
}

enum Ended {
    /// Changes may have been missed: it is time for a listing.
    Missed,
    /// The watch was cut, or did not come about.
    Failed(Error),
}

#[cfg(test)]
mod tests {
    use dev_servers::{Kind, Server};
    use micro_core::registry::{RegisterOptions, Registry as _};
    use micro_testkit::{Fixture, Missing, ready};
    use tokio::time::timeout;

    use super::*;
    use crate::{EtcdConfig, EtcdRegistry};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A server whose history a test may compact.
    struct Own(Server);

    impl Fixture for Own {
        async fn start() -> std::result::Result<Self, Missing> {
            let start = tokio::task::spawn_blocking(|| Server::start(Kind::Etcd));
            start.await.expect("it does not panic").map(Self).map_err(Missing::new)
        }

        fn patience(&self) -> Duration {
            PATIENCE
        }
    }

    struct World {
        own: Own,
        client: Client,
        registry: EtcdRegistry,
        changes: mpsc::Receiver<InstanceChange>,
        follower: tokio_util::task::AbortOnDropHandle<()>,
    }

    /// A follower that begins at a revision of the test's choice, with nothing told yet.
    async fn following(relist_interval: Duration, revision_of: impl Fn(i64) -> i64) -> Option<(World, Instance)> {
        let own = ready::<Own>().await?;
        let mut config = EtcdConfig::from_url(own.0.url()).unwrap();
        config.relist_interval = relist_interval;
        let registry = EtcdRegistry::connect(config.clone()).await.unwrap();
        let client = Client::connect(config).await.unwrap();
        let instance = Instance::new("greeter", "127.0.0.1:9000");
        for version in 1..20 {
            let other = instance.clone().with_version(version.to_string());
            std::mem::drop(registry.register(other, RegisterOptions::default()).await.unwrap());
        }
        let now = Listing::of(&client, OPERATION, "greeter").await.unwrap().revision;
        let first = Listing::empty(revision_of(now));
        let servers = [own.0.url().trim_start_matches("etcd://")];
        let mut etcd = etcd_client::Client::connect(servers, None).await.unwrap();
        etcd.compact(now, None).await.unwrap();
        let (sender, changes) = mpsc::channel(64);
        let follower = Follower { client: client.clone(), service: "greeter".to_owned(), changes: sender };
        let task = tokio::spawn(async move {
            let _ = follower.run(first).await;
        });
        let follower = tokio_util::task::AbortOnDropHandle::new(task);
        Some((World { own, client, registry, changes, follower }, instance))
    }

    impl World {
        async fn next(&mut self) -> InstanceChange {
            timeout(PATIENCE, self.changes.recv()).await.expect("in time").expect("the watch goes on")
        }
    }

    #[tokio::test]
    async fn a_watch_of_a_revision_that_was_compacted_lists_and_goes_on() {
        let Some((mut world, instance)) = following(Duration::from_secs(3_600), |_| 1).await else { return };
        assert_eq!(world.next().await, InstanceChange::Snapshot(Vec::new()));
        let last = instance.clone().with_version("last");
        let registration = world.registry.register(last.clone(), RegisterOptions::default()).await.unwrap();
        let mut told = world.next().await;
        // What was dropped above may be withdrawn only now; no word of it says that the watch is stale.
        while told != InstanceChange::Snapshot(vec![last.clone()]) && told != InstanceChange::Put(last.clone()) {
            assert!(!matches!(told, InstanceChange::Stale(_)), "{told:?}");
            told = world.next().await;
        }
        registration.close().await.unwrap();
        assert_eq!(world.next().await, InstanceChange::Removed(instance.id));
        assert!(!world.follower.is_finished());
        drop((world.client, world.own));
    }

    #[tokio::test]
    async fn a_watch_that_is_silent_is_caught_by_the_listing() {
        // From a revision that is far away etcd tells nothing, and no error.
        let interval = Duration::from_millis(300);
        let Some((mut world, instance)) = following(interval, |now| now + 1_000_000).await else { return };
        assert_eq!(world.next().await, InstanceChange::Snapshot(Vec::new()));
        let _registration = world.registry.register(instance.clone(), RegisterOptions::default()).await.unwrap();
        let mut told = world.next().await;
        while told != InstanceChange::Snapshot(vec![instance.clone()]) && told != InstanceChange::Put(instance.clone())
        {
            told = world.next().await;
        }
    }

    /// A watch tells key after key, for ever.
    #[test]
    fn a_listing_has_room_for_only_so_many_keys_and_bytes_and_what_is_gone_makes_room() {
        let mut listing = Listing::empty(1);
        for key in 0..INSTANCES_MAX {
            listing.make_room(&key.to_be_bytes(), 10).unwrap();
        }
        assert!(listing.make_room(b"more", 10).unwrap_err().contains("keys"));
        listing.make_room(&7_usize.to_be_bytes(), 20).unwrap();
        assert_eq!((listing.sizes.len(), listing.bytes), (INSTANCES_MAX, 10 * INSTANCES_MAX + 10));
        assert_eq!(listing.apply(&7_usize.to_be_bytes(), Vec::new()), []);
        assert!(listing.make_room(b"more", ANSWER_BYTES_MAX).unwrap_err().contains("bytes"));
        listing.make_room(b"more", 10).unwrap();
        assert_eq!((listing.sizes.len(), listing.bytes), (INSTANCES_MAX, 10 * INSTANCES_MAX));
    }

    #[test]
    fn a_change_of_a_key_says_what_is_new_and_what_is_gone() {
        let [a, b] = ["a", "b"].map(|id| Instance::new("greeter", "h:1").with_id(id));
        let mut listing = Listing::empty(1);
        let both = vec![a.clone(), b.clone()];
        assert_eq!(listing.apply(b"1", both), [InstanceChange::Put(a.clone()), InstanceChange::Put(b.clone())]);
        assert_eq!(listing.apply(b"1", vec![a.clone()]), [InstanceChange::Removed("b".to_owned())]);
        assert_eq!(listing.apply(b"1", vec![a.clone()]), []);
        // The same id below another key is the same instance.
        assert_eq!(listing.apply(b"2", vec![a.clone()]), [InstanceChange::Put(a)]);
        assert_eq!(listing.apply(b"1", Vec::new()), []);
        assert_eq!(listing.instances().len(), 1);
        assert_eq!(listing.apply(b"2", Vec::new()), [InstanceChange::Removed("a".to_owned())]);
        assert_eq!(listing.apply(b"3", Vec::new()), []);
    }
}
