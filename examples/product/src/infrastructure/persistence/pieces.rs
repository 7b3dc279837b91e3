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
        for count in [0, 1, 3, 4, 63, 64, 100, 255] {
            let items: Vec<usize> = (0..count).collect();
            let cut: Vec<&[usize]> = pieces(&items).collect();
            assert!(cut.iter().all(|piece| WIDTHS.contains(&piece.len())));
            assert_eq!(cut.concat(), items);
        }
    }

    #[test]
    fn a_list_has_a_part_for_each() {
        assert_eq!(list("(?, ?)", 2), "(?, ?), (?, ?)");
    }
}
