//! The suite of the selector port.

use micro_core::{registry::Instance, selector::Selector};

use crate::Fixture;

/// What the selector suite runs on.
pub trait SelectorFixture: Fixture {
    /// A selector as an application would have it.
    fn selector(&self) -> &dyn Selector;
}

/// Makes a test of every promise of [`Selector`], or of those that are listed.
#[macro_export]
macro_rules! selector_conformance {
    ($fixture:ty) => {
        $crate::selector_conformance!($fixture; nothing_is_picked_from_an_empty_snapshot every_instance_gets_its_share);
    };
    ($fixture:ty; $($promise:ident)+) => { $crate::__conformance!(selector, $fixture, $($promise)+); };
}

/// Nothing is picked from an empty snapshot, and something always from another.
pub async fn nothing_is_picked_from_an_empty_snapshot(fixture: &impl SelectorFixture) {
    for count in 0..=16 {
        let instances = instances(count);
        for _ in 0..100 {
            match fixture.selector().pick(&instances) {
                None => assert_eq!(count, 0, "nothing was picked from {count} instances"),
                Some(index) => assert!(index < count, "{index} was picked from {count} instances"),
            }
        }
    }
}

/// Of many picks every instance gets at least half of an even share.
pub async fn every_instance_gets_its_share(fixture: &impl SelectorFixture) {
    const INSTANCE_COUNT: usize = 5;
    const PICK_COUNT: usize = 5_000;
    let instances = instances(INSTANCE_COUNT);
    let mut picks = [0; INSTANCE_COUNT];
    for _ in 0..PICK_COUNT {
        picks[fixture.selector().pick(&instances).expect("a pick from five")] += 1;
    }
    let half_share = PICK_COUNT / INSTANCE_COUNT / 2;
    assert!(picks.iter().all(|picks| *picks >= half_share), "an uneven share: {picks:?}");
}

fn instances(count: usize) -> Vec<Instance> {
    (0..count).map(|number| Instance::new("greeter", format!("127.0.0.1:{}", 9_000 + number))).collect()
}

/// A promise of [`Selector`] that [`BrokenSelector`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectorFault {
    /// Picks the first of no instances.
    PicksFromNothing,
    /// Picks nothing, whatever there is.
    PicksNothing,
    /// Picks the one behind the last.
    PicksBehindTheLast,
    /// Picks the first every time.
    PicksTheFirst,
}

/// A selector that breaks one promise of the one inside, or none.
pub struct BrokenSelector<S> {
    selector: S,
    fault: Option<SelectorFault>,
}

impl<S: Selector> BrokenSelector<S> {
    /// Breaks `fault`'s promise.
    pub fn new(selector: S, fault: impl Into<Option<SelectorFault>>) -> Self {
        Self { selector, fault: fault.into() }
    }
}

impl<S: Selector> Selector for BrokenSelector<S> {
    fn pick(&self, instances: &[Instance]) -> Option<usize> {
        match self.fault {
            Some(SelectorFault::PicksFromNothing) if instances.is_empty() => Some(0),
            Some(SelectorFault::PicksNothing) => None,
            Some(SelectorFault::PicksBehindTheLast) if !instances.is_empty() => Some(instances.len()),
            Some(SelectorFault::PicksTheFirst) if !instances.is_empty() => Some(0),
            _ => self.selector.pick(instances),
        }
    }
}
