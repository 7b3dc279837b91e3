//! The selector suite on the selectors of this crate.

use std::time::Duration;

use micro_core::selector::{RandomSelector, RoundRobinSelector, Selector};
use micro_testkit::{Fixture, Missing, selector::SelectorFixture};

struct Selecting<S>(S);

impl<S: Selector + Default> Fixture for Selecting<S> {
    async fn start() -> Result<Self, Missing> {
        Ok(Self(S::default()))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }
}

impl<S: Selector + Default> SelectorFixture for Selecting<S> {
    fn selector(&self) -> &dyn Selector {
        &self.0
    }
}

mod random {
    micro_testkit::selector_conformance!(super::Selecting<super::RandomSelector>);
}

mod round_robin {
    micro_testkit::selector_conformance!(super::Selecting<super::RoundRobinSelector>);
}
