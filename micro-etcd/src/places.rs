//! Who keeps which instance in this process: a lock for each.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use micro_core::registry::Instance;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    task::AbortHandle,
};

/// One registration of an id; a later one of the same id has another generation.
pub(crate) struct Kept {
    pub(crate) generation: u64,
    pub(crate) claim: Claim,
    pub(crate) task: AbortHandle,
}

/// What an instance has in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) key: String,
    pub(crate) lease: i64,
    /// Whether the lease was there before; then others may have keys of it.
    pub(crate) is_adopted: bool,
}

/// A service's name and an instance's id.
type Name = (String, String);
type Slot = Arc<AsyncMutex<Option<Kept>>>;
type Slots = Arc<Mutex<HashMap<Name, Slot>>>;

/// All of them. Clones share them.
///
/// Whoever changes what etcd has of an instance holds its place, over the requests, so that nobody
/// registers again what another one just replaced or withdrew; other instances do not wait for that.
#[derive(Clone, Default)]
pub(crate) struct Places {
    slots: Slots,
}

impl Places {
    pub(crate) async fn of(&self, instance: &Instance) -> Place {
        self.named(&instance.service, &instance.id).await
    }

    /// The place of an instance, once nobody else holds it.
    ///
    /// Cancel safe: who gives up leaves nothing.
    pub(crate) async fn named(&self, service: &str, id: &str) -> Place {
        let name = (service.to_owned(), id.to_owned());
        let slot = locked(&self.slots).entry(name.clone()).or_default().clone();
        let usage = Usage { slots: self.slots.clone(), name, slot: Some(slot.clone()) };
        Place { kept: slot.lock_owned().await, _usage: usage }
    }
}

/// A place that is held, until its drop.
pub(crate) struct Place {
    kept: OwnedMutexGuard<Option<Kept>>,
    // Dropped behind the guard.
    _usage: Usage,
}

impl Place {
    /// Who keeps the instance, if that is this registration.
    pub(crate) fn of_generation(&mut self, generation: u64) -> Option<&mut Kept> {
        self.as_mut().filter(|kept| kept.generation == generation)
    }
}

impl Deref for Place {
    type Target = Option<Kept>;

    fn deref(&self) -> &Option<Kept> {
        &self.kept
    }
}

impl DerefMut for Place {
    fn deref_mut(&mut self) -> &mut Option<Kept> {
        &mut self.kept
    }
}

/// Somebody who holds a place or waits for it. The last one to leave an empty place takes it along.
struct Usage {
    slots: Slots,
    name: Name,
    slot: Option<Slot>,
}

impl Drop for Usage {
    fn drop(&mut self) {
        // Whoever comes or leaves has the map for it, so that two who leave together see each other.
        let mut slots = locked(&self.slots);
        self.slot = None;
        let is_unused = |slot: &Slot| Arc::strong_count(slot) == 1 && slot.try_lock().is_ok_and(|kept| kept.is_none());
        if slots.get(&self.name).is_some_and(is_unused) {
            slots.remove(&self.name);
        }
    }
}

fn locked(slots: &Slots) -> std::sync::MutexGuard<'_, HashMap<Name, Slot>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn kept() -> Kept {
        let claim = Claim { key: "k".to_owned(), lease: 1, is_adopted: false };
        Kept { generation: 7, claim, task: tokio::spawn(async {}).abort_handle() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_held_by_one_and_others_do_not_wait_for_it() {
        let places = Places::default();
        let held = places.named("a", "1").await;
        let _other = places.named("a", "2").await;
        let waiting = timeout(Duration::from_secs(1), places.named("a", "1"));
        assert!(waiting.await.is_err());
        drop(held);
        assert!(places.named("a", "1").await.is_none());
    }

    #[tokio::test]
    async fn what_is_kept_is_found_again_and_an_empty_place_is_forgotten() {
        let places = Places::default();
        *places.named("a", "1").await = Some(kept());
        let mut place = places.named("a", "1").await;
        assert!(place.of_generation(7).is_some() && place.of_generation(8).is_none());
        // Who waits gets the same place, though it was emptied.
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.named("a", "1").await.replace(kept()).is_none() }
        });
        tokio::task::yield_now().await;
        *place = None;
        drop(place);
        assert!(waiting.await.unwrap());
        assert_eq!(locked(&places.slots).len(), 1);
        places.named("a", "1").await.take().unwrap();
        drop(places.named("a", "2").await);
        assert!(locked(&places.slots).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_leaves_no_empty_place() {
        let places = Places::default();
        // The one that holds it leaves first, and those that wait are cancelled then.
        let held = places.named("a", "1").await;
        let wait = |_| {
            let places = places.clone();
            tokio::spawn(async move { drop(places.named("a", "1").await) })
        };
        let waiting: Vec<_> = (0..2).map(wait).collect();
        tokio::task::yield_now().await;
        drop(held);
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        for task in waiting {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        assert!(locked(&places.slots).is_empty());
        // The other way round; and what is kept stays.
        let mut held = places.named("a", "1").await;
        assert!(timeout(Duration::from_secs(1), places.named("a", "1")).await.is_err());
        *held = Some(kept());
        drop(held);
        assert!(timeout(Duration::from_secs(1), places.named("a", "1")).await.is_ok());
        assert_eq!(locked(&places.slots).len(), 1);
    }
}
