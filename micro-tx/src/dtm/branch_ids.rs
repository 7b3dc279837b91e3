//! The ids of branches that a client gives: two digits a level.

use micro_core::{Error, ErrorKind, Result};

/// How many branches a level has.
const LEVEL_MAX: u8 = 99;
/// How long the id may be under which branches are made.
const PARENT_BYTES_MAX: usize = 20;

/// Gives the ids of a transaction's branches, or of those below a branch: `01`, `02`, …, `0101`.
///
/// An id is used up even where nothing came of it. Source: DTM 1.19, `BranchIDGen`.
#[derive(Clone, Debug, Default)]
pub struct BranchIds {
    parent: String,
    last: u8,
}

impl BranchIds {
    /// The ids below this branch; the empty one is the transaction itself.
    pub fn below(parent: impl Into<String>) -> Self {
        Self { parent: parent.into(), last: 0 }
    }

    /// The next id.
    ///
    /// # Errors
    ///
    /// `OutOfRange` for the hundredth of a level, and below an id of more than twenty characters.
    pub fn next_id(&mut self) -> Result<String> {
        let refused = |message: &'static str| {
            Error::new(ErrorKind::OutOfRange, "branch.id", message).with_context("parent", &self.parent)
        };
        if self.last == LEVEL_MAX {
            return Err(refused("a level has 99 branches at most"));
        }
        if self.parent.len() > PARENT_BYTES_MAX {
            return Err(refused("branches are nested too deep: an id has 22 characters at most"));
        }
        self.last += 1;
        Ok(format!("{}{:02}", self.parent, self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DTM's TestTypes.
    #[test]
    fn case_15_types() {
        let mut ids = BranchIds::default();
        assert_eq!([ids.next_id().unwrap(), ids.next_id().unwrap()], ["01", "02"]);
        let mut ids = BranchIds::below("01");
        let all: Vec<String> = (0..99).map(|_| ids.next_id().unwrap()).collect();
        assert_eq!((all[0].as_str(), all[98].as_str()), ("0101", "0199"));
        let error = ids.next_id().unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains("99")), (ErrorKind::OutOfRange, true));
        assert_eq!(BranchIds::below("01".repeat(10)).next_id().unwrap().len(), 22);
        assert_eq!(BranchIds::below("01".repeat(11)).next_id().unwrap_err().kind(), ErrorKind::OutOfRange);
    }
}
