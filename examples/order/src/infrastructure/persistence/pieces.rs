//! Cuts sets into pieces of fixed widths, so that a handful of statement texts is prepared once
//! each instead of one per set size.

/// From large to small, every count of small sets among them; at 256 rows of ten values a statement stays below every database's limit
/// on values.
const WIDTHS: [usize; 22] = [256, 128, 64, 48, 32, 24, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1];

/// The items in order, in pieces whose lengths are in [`WIDTHS`].
pub(super) fn pieces<T>(mut items: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let width = WIDTHS.into_iter().find(|width| *width <= items.len())?;
        let (piece, rest) = items.split_at(width);
        items = rest;
        Some(piece)
    })
}

/// As [`pieces`] in as few pieces as can be, the last one filled up by repeating its last item:
/// for statements to which a repeated item makes no difference.
pub(super) fn filled<T: Clone>(items: &[T]) -> impl Iterator<Item = Vec<T>> {
    items.chunks(WIDTHS[0]).map(|chunk| {
        let width = WIDTHS.into_iter().rfind(|width| *width >= chunk.len()).expect("no chunk is wider than the widest");
        let last = chunk.last().expect("chunks are never empty");
        chunk.iter().chain(std::iter::repeat_n(last, width - chunk.len())).cloned().collect()
    })
}

/// `part` as often as there are items, with commas between: `(?, ?), (?, ?)`.
pub(super) fn list(part: &str, count: usize) -> String {
    repeated(part, ", ", count)
}

/// `part` as often as there are items, with `separator` between.
pub(super) fn repeated(part: &str, separator: &str, count: usize) -> String {
    vec![part; count].join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_every_item_in_order_and_only_known_widths() {
        for count in [0, 1, 3, 4, 63, 64, 100, 255, 600] {
            let items: Vec<usize> = (0..count).collect();
            let cut: Vec<&[usize]> = pieces(&items).collect();
            assert!(cut.iter().all(|piece| WIDTHS.contains(&piece.len())));
            assert_eq!(cut.concat(), items);
        }
    }

    #[test]
    fn filled_pieces_are_few_and_repeat_only_their_last_item() {
        for (count, piece_count) in [(0, 0), (1, 1), (3, 1), (100, 1), (256, 1), (257, 2), (600, 3)] {
            let items: Vec<usize> = (0..count).collect();
            let cut: Vec<Vec<usize>> = filled(&items).collect();
            assert_eq!(cut.len(), piece_count);
            assert!(cut.iter().all(|piece| WIDTHS.contains(&piece.len())));
            let mut all = cut.concat();
            all.dedup();
            assert_eq!(all, items);
        }
    }

    #[test]
    fn a_list_has_a_part_for_each() {
        assert_eq!(list("(?, ?)", 2), "(?, ?), (?, ?)");
    }
}
