//! Watches a service by blocking queries, by the rules of
//! <https://developer.hashicorp.com/consul/api-docs/features/blocking>.

use std::time::Duration;

use micro_core::{
    Result,
    registry::{Instance, InstanceChange, InstanceWatch, Outage},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use crate::{client::Client, encoding};

/// The longest wait after a failure; at first it is 200 ms.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The live instances of a service, sorted by id, at an index of Consul's state.
pub(crate) struct View {
    pub(crate) instances: Vec<Instance>,
    index: u64,
}

/// What is live once the state is newer than `index`, or after a while; at once for 0.
pub(crate) async fn query(client: &Client, operation: &'static str, service: &str, index: u64) -> Result<View> {
    let path = ["health", "service", service];
    let answer = client.get_newer(operation, &path, &[], index).await?;
    let reading = encoding::instances(service, &answer.body).map_err(|cause| client.unreadable(operation, cause))?;
    client.complaints.say(reading.complaints);
    Ok(View { instances: reading.instances, index: answer.index })
}

/// Begins a watch with a snapshot. Its task goes on through failures and ends with the watch.
pub(crate) async fn begin(client: Client, service: String) -> Result<InstanceWatch> {
    let first = query(&client, "registry.watch", &service, 0).await?;
    let (changes, watch) = InstanceWatch::channel();
    tokio::spawn(async move {
        tokio::select! {
            () = changes.closed() => {}
            () = follow(&client, &service, first, &changes) => {}
        }
    });
    Ok(watch)
}

async fn follow(client: &Client, service: &str, first: View, changes: &mpsc::Sender<InstanceChange>) {
    let View { instances: mut told, mut index } = first;
    index = index.max(1);
    let mut is_heard = changes.send(InstanceChange::Snapshot(told.clone())).await.is_ok();
    let mut tokens = Tokens::new(client.config.churn_interval);
    let mut outage = Outage::new("Consul", "watch", service, PAUSE_MAX);
    let mut stale = None;
    while is_heard {
        tokens.take().await;
        match query(client, "registry.watch", service, index).await {
            Ok(view) => {
                index = next_index(index, view.index);
                outage.ended();
                // An answer is not always a change; behind `Stale` it says that the watch is fresh again.
                if stale.take().is_some() || view.instances != told {
                    told = view.instances;
                    is_heard = changes.send(InstanceChange::Snapshot(told.clone())).await.is_ok();
                }
            }
            Err(error) => {
                // The agent may come back with another state, whose index is lower: ask anew.
                index = 0;
                // Without its causes, which differ from one attempt to the next.
                let reason = error.to_string();
                if stale.as_ref() != Some(&reason) {
                    is_heard = changes.send(InstanceChange::Stale(reason.clone())).await.is_ok();
                    stale = Some(reason);
                }
                sleep(outage.failed(&error)).await;
            }
        }
    }
}

/// The index of the next question: 0, which does not wait, after one that went down, for a query
/// that waits for the old one would sleep through what happens below it; never the 0 of an answer,
/// for that would ask without a pause.
pub(crate) fn next_index(last: u64, answered: u64) -> u64 {
    if answered < last { 0 } else { answered.max(1) }
}

/// A bucket of two tokens: two answers may come at once, a third one waits until the bucket has
/// one again. A service that changes all the time is asked for at that pace, a quiet one is told
/// of without a wait.
struct Tokens {
    refill: Duration,
    /// When the bucket will be full.
    full_at: Instant,
}

impl Tokens {
    const BURST: u32 = 2;

    fn new(refill: Duration) -> Self {
        Self { refill, full_at: Instant::now() }
    }

    async fn take(&mut self) {
        let full_after_this = self.full_at.max(Instant::now()) + self.refill;
        sleep_until(full_after_this - self.refill * Self::BURST).await;
        self.full_at = full_after_this;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_down_is_reset_and_none_is_below_one() {
        assert_eq!(next_index(5, 7), 7);
        assert_eq!(next_index(7, 7), 7);
        assert_eq!(next_index(7, 5), 0);
        assert_eq!(next_index(0, 5), 5);
        assert_eq!(next_index(0, 0), 1);
        assert_eq!(next_index(1, 0), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn two_tokens_are_there_at_once_and_then_one_per_interval() {
        let mut tokens = Tokens::new(Duration::from_secs(1));
        let began = Instant::now();
        for (count, expected) in [(2, 0), (3, 3), (1, 4)] {
            for _ in 0..count {
                tokens.take().await;
            }
            assert_eq!(began.elapsed().as_secs(), expected);
        }
        sleep(Duration::from_secs(60)).await;
        let rested = Instant::now();
        for _ in 0..3 {
            tokens.take().await;
        }
        assert_eq!(rested.elapsed().as_secs(), 1);
    }
}
