//! The selector suite against honest and broken selectors.

use std::time::Duration;

use micro_core::selector::{RoundRobinSelector, Selector};
use micro_testkit::{
    Fixture, Missing, breaks,
    selector::{self, BrokenSelector, SelectorFault, SelectorFixture},
};

struct Selecting(BrokenSelector<RoundRobinSelector>);

impl Selecting {
    fn with(fault: impl Into<Option<SelectorFault>>) -> Self {
        Self(BrokenSelector::new(RoundRobinSelector::default(), fault))
    }
}

impl Fixture for Selecting {
    async fn start() -> Result<Self, Missing> {
        Ok(Self::with(None))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }
}

impl SelectorFixture for Selecting {
    fn selector(&self) -> &dyn Selector {
        &self.0
    }
}

mod unbroken {
    micro_testkit::selector_conformance!(super::Selecting);
}

#[tokio::test]
async fn nothing_is_picked_from_an_empty_snapshot_can_fail() {
    for (fault, reason) in [
        (SelectorFault::PicksFromNothing, "0 was picked from 0 instances"),
        (SelectorFault::PicksNothing, "nothing was picked from 1 instances"),
        (SelectorFault::PicksBehindTheLast, "1 was picked from 1 instances"),
    ] {
        let fixture = Selecting::with(fault);
        let suite = selector::nothing_is_picked_from_an_empty_snapshot(&fixture);
        let found = breaks("nothing_is_picked_from_an_empty_snapshot", suite).await;
        assert!(found.contains(reason), "{found}");
    }
}

#[tokio::test]
async fn every_instance_gets_its_share_can_fail() {
    let fixture = Selecting::with(SelectorFault::PicksTheFirst);
    let reason = breaks("every_instance_gets_its_share", selector::every_instance_gets_its_share(&fixture)).await;
    assert!(reason.contains("an uneven share: [5000, 0, 0, 0, 0]"), "{reason}");
}
