//! Statements over many rows in fixed widths, so that few texts are prepared and kept.

/// How many rows one statement takes. Each width is a text that every connection prepares once;
/// with a text for every count the statement cache would overflow. Small sets, which are most under
/// a moderate load, go in one statement.
const WIDTHS: [usize; 22] = [256, 128, 64, 48, 32, 24, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1];

/// How many rows the widest statement takes.
pub(crate) const PART_COUNT_MAX: usize = WIDTHS[0];

/// One statement text a width.
pub(crate) struct Widths([String; WIDTHS.len()]);

impl Widths {
    /// The texts, made by `text` from how often `row` is repeated, comma-separated.
    pub(crate) fn new(row: &str, text: impl Fn(&str) -> String) -> Self {
        Self::joined(row, ", ", text)
    }

    /// As [`new`](Self::new), with another text between the rows.
    pub(crate) fn joined(row: &str, between: &str, text: impl Fn(&str) -> String) -> Self {
        Self(WIDTHS.map(|width| text(&vec![row; width].join(between))))
    }

    /// Cuts `items` into parts of a width each, in order, with the text for it.
    pub(crate) fn cut<'a, T>(&'a self, mut items: &'a [T]) -> impl Iterator<Item = (&'a str, &'a [T])> {
        std::iter::from_fn(move || {
            let fitting = WIDTHS.iter().position(|width| *width <= items.len())?;
            let (part, rest) = items.split_at(WIDTHS[fitting]);
            items = rest;
            Some((self.0[fitting].as_str(), part))
        })
    }

    /// As [`cut`](Self::cut) in as few parts as can be, the last one filled up by repeating its
    /// last item: for statements to which a repeated item makes no difference.
    pub(crate) fn filled<'a, T>(&'a self, items: &'a [T]) -> impl Iterator<Item = (&'a str, Vec<&'a T>)> {
        items.chunks(PART_COUNT_MAX).map(|part| self.part(part))
    }

    /// As [`filled`](Self::filled), of 1 to [`PART_COUNT_MAX`] items.
    pub(crate) fn part<'s, 'a, T>(&'s self, part: &'a [T]) -> (&'s str, Vec<&'a T>) {
        let fitting = WIDTHS.iter().rposition(|width| *width >= part.len()).expect("no part is wider than the widest");
        let last = part.last().expect("no part is empty");
        let filling = std::iter::repeat_n(last, WIDTHS[fitting] - part.len());
        (self.0[fitting].as_str(), part.iter().chain(filling).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widths() -> Widths {
        Widths::new("?", |rows| rows.len().to_string())
    }

    fn text(width: usize) -> String {
        (3 * width - 2).to_string()
    }

    #[test]
    fn every_item_is_in_one_part_in_order() {
        let items: Vec<_> = (0..338).collect();
        let widths = widths();
        let parts: Vec<_> = widths.cut(&items).collect();
        assert_eq!(parts.iter().flat_map(|(_, part)| part.iter().copied()).collect::<Vec<_>>(), items);
        let texts: Vec<_> = parts.iter().map(|(text, _)| (*text).to_owned()).collect();
        assert_eq!(texts, [text(256), text(64), text(16), text(2)]);
    }

    #[test]
    fn the_last_part_is_filled_with_its_last_item() {
        let widths = widths();
        let sizes = |count: usize| {
            let items: Vec<_> = (0..count).collect();
            widths
                .filled(&items)
                .map(|(text, part)| (text.to_owned(), part.len(), **part.last().unwrap()))
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(0), []);
        assert_eq!(sizes(1), [(text(1), 1, 0)]);
        assert_eq!(sizes(3), [(text(3), 3, 2)]);
        assert_eq!(sizes(17), [(text(24), 24, 16)]);
        assert_eq!(sizes(259), [(text(256), 256, 255), (text(3), 3, 258)]);
    }
}
