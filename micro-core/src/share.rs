//! How several share a limit so that none of them takes it whole.

/// Whether one that has `own` of `total` may have one more: up to three times what is left then. One
/// that is alone gets three quarters of `max`; however many there are, something is left for the
/// next, and who has none may always have one. (Dynamic thresholds: Choudhury and Hahne, 1998.)
pub(crate) fn may_take(own: usize, total: usize, max: usize) -> bool {
    own == 0 || own < max.saturating_sub(total.saturating_add(1)).saturating_mul(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gets_three_quarters_and_leaves_room_whoever_comes() {
        for (max, expected) in [(1, 1), (2, 1), (4, 3), (8, 6), (4_096, 3_072)] {
            let count = (0..max).take_while(|count| may_take(*count, *count, max)).count();
            assert_eq!(count, expected, "of {max}");
        }
        let mut counts = [0_usize; 20];
        for _ in 0..4_096 {
            for index in 0..counts.len() {
                let total = counts.iter().sum();
                counts[index] += usize::from(may_take(counts[index], total, 4_096));
            }
        }
        assert!(counts.iter().all(|count| *count > 150) && counts.iter().sum::<usize>() < 4_096, "{counts:?}");
    }
}
