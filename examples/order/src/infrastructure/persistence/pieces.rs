//! Cuts sets into pieces of fixed widths, so that a handful of statement texts is prepared once
//! each instead of one per set size.

/// From large to small; at 64 rows of eight values a statement stays below every database's limit
/// on values.
const WIDTHS: [usize; 4] = [64, 16, 4, 1];

/// The items in order, in pieces whose lengths are in [`WIDTHS`].
pub(super) fn pieces<T>(mut items: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let width = WIDTHS.into_iter().find(|width| *width <= items.len())?;
        let (piece, rest) = items.split_at(width);
        items = rest;
        Some(piece)
    })
}

/// The items in pieces as [`pieces`] has, but the last is filled up to its width by repeating its last
/// item: for lists in which that makes no difference, as `IN (…)`. One statement does where
/// [`pieces`] would need several.
pub(super) fn padded_pieces<T>(items: &[T]) -> impl Iterator<Item = Vec<&T>> {
    items.chunks(WIDTHS[0]).map(|chunk| {
        let width = WIDTHS.into_iter().rev().find(|width| *width >= chunk.len()).expect("the largest is WIDTHS[0]");
        let last = chunk.last().expect("chunks are not empty");
        chunk.iter().chain(std::iter::repeat(last)).take(width).collect()
    })
}

/// `part` as often as there are items, with commas between: `(?, ?), (?, ?)`.
pub(super) fn list(part: &str, count: usize) -> String {
    vec![part; count].join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_every_item_in_order_and_only_known_widths() {
        for count in [0, 1, 3, 4, 63, 64, 100, 255] {
            let items: Vec<usize> = (0..count).collect();
            let cut: Vec<&[usize]> = pieces(&items).collect();
            assert!(cut.iter().all(|piece| WIDTHS.contains(&piece.len())));
            assert_eq!(cut.concat(), items);
        }
    }

    #[test]
    fn padded_pieces_hold_every_item_and_repeat_only_the_last() {
        for count in [0, 1, 3, 4, 63, 64, 100] {
            let items: Vec<usize> = (0..count).collect();
            let cut: Vec<Vec<&usize>> = padded_pieces(&items).collect();
            assert_eq!(cut.len(), count.div_ceil(64));
            assert!(cut.iter().all(|piece| WIDTHS.contains(&piece.len())));
            let mut held: Vec<usize> = cut.concat().into_iter().copied().collect();
            held.dedup();
            assert_eq!(held, items);
        }
    }

    #[test]
    fn a_list_has_a_part_for_each() {
        assert_eq!(list("(?, ?)", 2), "(?, ?), (?, ?)");
    }
}
