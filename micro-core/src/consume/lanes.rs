//! Which lane of a partition a delivery runs in: one key, one lane.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::broker::Delivery;

/// Spreads the keys of a partition over lanes that run side by side.
///
/// The hash is another one than the partitioner's: keys of one partition share a remainder of
/// that one and would all fall into one lane.
#[derive(Clone, Copy, Debug)]
pub struct KeyLanes {
    lane_count: usize,
}

impl KeyLanes {
    /// So many lanes, at least one.
    pub fn new(lane_count: usize) -> Self {
        Self { lane_count: lane_count.max(1) }
    }

    /// How many lanes there are.
    pub fn lane_count(self) -> usize {
        self.lane_count
    }

    /// The lane of a delivery, below `lane_count`: always the same for one key; deliveries without
    /// a key are spread by their offset.
    pub fn lane(self, delivery: &Delivery) -> usize {
        let mut hasher = DefaultHasher::new();
        match &delivery.message.key {
            Some(key) => key.hash(&mut hasher),
            None => delivery.offset.hash(&mut hasher),
        }
        // The remainder is below a usize.
        usize::try_from(hasher.finish() % self.lane_count as u64).expect("below lane_count")
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::SystemTime};

    use super::*;
    use crate::broker::{Message, fnv1a_partition};

    fn delivery(message: Message, offset: i64) -> Delivery {
        Delivery { message, partition: 0, offset, timestamp: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn one_key_has_one_lane() {
        let lanes = KeyLanes::new(4);
        let of = |offset| lanes.lane(&delivery(Message::keyed("t", "order-17", ""), offset));
        assert!((0..100).all(|offset| of(offset) == of(0)));
    }

    #[test]
    fn keys_of_one_partition_use_every_lane() {
        let keys = (0..1_000).map(|key| key.to_string()).filter(|key| fnv1a_partition(key.as_bytes(), 4) == 1);
        let used: BTreeSet<_> =
            keys.map(|key| KeyLanes::new(4).lane(&delivery(Message::keyed("t", key, ""), 0))).collect();
        assert_eq!(used.len(), 4);
    }

    #[test]
    fn deliveries_without_a_key_are_spread() {
        let used: BTreeSet<_> =
            (0..100).map(|offset| KeyLanes::new(4).lane(&delivery(Message::unkeyed("t", ""), offset))).collect();
        assert_eq!(used.len(), 4);
    }
}
