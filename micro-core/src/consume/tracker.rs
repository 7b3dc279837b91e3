//! Which offsets of a partition are done, and the position below which all are.

use std::collections::VecDeque;

/// The contiguous prefix of done offsets of one partition.
///
/// Offsets are received in increasing order, with gaps, and done in any order; the position only
/// moves over offsets that are done.
///
/// # Examples
///
/// ```
/// use micro_core::consume::OffsetTracker;
///
/// let mut tracker = OffsetTracker::new();
/// for offset in [7, 8, 12] {
///     assert!(tracker.received(offset));
/// }
/// tracker.done(8);
/// assert_eq!(tracker.next_offset(), Some(7));
/// tracker.done(7);
/// assert_eq!(tracker.next_offset(), Some(12));
/// tracker.done(12);
/// assert_eq!(tracker.next_offset(), Some(13));
/// ```
#[derive(Clone, Debug, Default)]
pub struct OffsetTracker {
    /// From the first that is not done: offset, and whether it is done.
    pending: VecDeque<(i64, bool)>,
    unfinished_count: usize,
    last_received: Option<i64>,
}

impl OffsetTracker {
    /// Nothing received.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes an offset; `false` when it is not above the last one: it was received before.
    pub fn received(&mut self, offset: i64) -> bool {
        if self.last_received.is_some_and(|last| offset <= last) {
            return false;
        }
        self.last_received = Some(offset);
        self.pending.push_back((offset, false));
        self.unfinished_count += 1;
        true
    }

    /// Marks an offset as done; one that was not received is ignored.
    pub fn done(&mut self, offset: i64) {
        let Some(index) = self.index_of(offset) else { return };
        if !std::mem::replace(&mut self.pending[index].1, true) {
            self.unfinished_count -= 1;
        }
        while self.pending.front().is_some_and(|(_, is_done)| *is_done) {
            self.pending.pop_front();
        }
    }

    /// Offsets mostly have no gaps: then the distance to the first is the place.
    fn index_of(&self, offset: i64) -> Option<usize> {
        let (first, _) = self.pending.front()?;
        let distance = usize::try_from(offset.checked_sub(*first)?).ok()?;
        if self.pending.get(distance).is_some_and(|(found, _)| *found == offset) {
            return Some(distance);
        }
        self.pending.binary_search_by_key(&offset, |(offset, _)| *offset).ok()
    }

    /// The offset of the first that is not done, or the one after the last received; `None` before
    /// anything was received.
    pub fn next_offset(&self) -> Option<i64> {
        match self.pending.front() {
            Some((offset, _)) => Some(*offset),
            None => self.last_received.map(|last| last.saturating_add(1)),
        }
    }

    /// How many were received and are not done.
    pub fn unfinished_count(&self) -> usize {
        self.unfinished_count
    }

    /// From the first that is not done to the last received: what a stuck offset holds up.
    pub fn held_count(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_received_has_no_position() {
        assert_eq!(OffsetTracker::new().next_offset(), None);
    }

    #[test]
    fn an_offset_received_again_is_refused_and_moves_nothing() {
        let mut tracker = OffsetTracker::new();
        assert!(tracker.received(5));
        tracker.done(5);
        assert!(!tracker.received(5));
        assert!(!tracker.received(4));
        assert_eq!((tracker.next_offset(), tracker.unfinished_count()), (Some(6), 0));
    }

    #[test]
    fn done_twice_counts_once_and_unknown_offsets_are_ignored() {
        let mut tracker = OffsetTracker::new();
        tracker.received(1);
        tracker.received(3);
        tracker.done(3);
        tracker.done(3);
        tracker.done(2);
        assert_eq!((tracker.next_offset(), tracker.unfinished_count(), tracker.held_count()), (Some(1), 1, 2));
    }

    proptest! {
        #[test]
        fn the_position_is_the_lowest_unfinished_offset(
            gaps in prop::collection::vec(1_i64..5, 1..60),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        ) {
            let mut tracker = OffsetTracker::new();
            let offsets: Vec<i64> = gaps.iter().scan(0, |last, gap| { *last += gap; Some(*last) }).collect();
            let mut unfinished: BTreeSet<i64> = offsets.iter().copied().collect();
            for offset in &offsets {
                prop_assert!(tracker.received(*offset));
            }
            for index in order {
                let offset = *index.get(&offsets);
                tracker.done(offset);
                unfinished.remove(&offset);
                let expected = unfinished.first().copied().unwrap_or(offsets[offsets.len() - 1] + 1);
                prop_assert_eq!(tracker.next_offset(), Some(expected));
                prop_assert_eq!(tracker.unfinished_count(), unfinished.len());
            }
        }
    }
}
