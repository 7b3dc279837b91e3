//! Bounds on names that a peer chooses.

/// The longest operation name that is written to spans and metrics; a peer chooses the path of a
/// call, and what it chooses must not fill logs and memory.
pub(crate) const OPERATION_BYTES_MAX: usize = 200;

/// The name, cut to [`OPERATION_BYTES_MAX`] at a character's boundary.
pub(crate) fn cut(operation: &str) -> &str {
    let mut end = operation.len().min(OPERATION_BYTES_MAX);
    while !operation.is_char_boundary(end) {
        end -= 1;
    }
    &operation[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_between_characters() {
        assert_eq!(cut("/p.S/M"), "/p.S/M");
        let long = "é".repeat(OPERATION_BYTES_MAX);
        assert_eq!(cut(&long).len(), OPERATION_BYTES_MAX);
        let shifted = format!("x{long}");
        assert_eq!(cut(&shifted).len(), OPERATION_BYTES_MAX - 1);
    }
}
