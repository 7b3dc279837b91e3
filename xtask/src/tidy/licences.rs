//! The licences of everything that is linked: permissive ones only, by their SPDX expressions.

use super::Violation;
use crate::tree::Tree;

/// What the workspace's own crates say.
const OWN: &str = "MIT OR Apache-2.0";

/// Licences that ask for no more than their text and a notice. `deny.toml` has the same list.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let metadata = &tree.metadata;
    metadata
        .packages
        .iter()
        .filter_map(|package| {
            let is_own = metadata.workspace_members.contains(&package.id);
            let name = format!("{} {}", package.name, package.version);
            complaint(package.license.as_deref(), is_own).map(|message| Violation::new(name, 0, message))
        })
        .collect()
}

fn complaint(expression: Option<&str>, is_own: bool) -> Option<String> {
    let Some(expression) = expression else {
        return Some("has no licence expression: read its licence file, or take another crate".to_owned());
    };
    if is_own {
        return (expression != OWN).then(|| format!("write `license.workspace = true`, which is {OWN}"));
    }
    match is_allowed(expression) {
        Ok(true) => None,
        Ok(false) => Some(format!("licence `{expression}` is not on the list: take another crate")),
        Err(reason) => Some(format!("licence `{expression}`: {reason}")),
    }
}

/// Whether one may choose licences of the list that satisfy the expression.
///
/// Grammar: <https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/>, and `/` for OR, as
/// older crates write it.
fn is_allowed(expression: &str) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut tokens = Tokens { words: spaced.split_whitespace().collect(), position: 0 };
    let verdict = tokens.any()?;
    match tokens.peek() {
        None => Ok(verdict),
        Some(word) => Err(format!("`{word}` does not belong there")),
    }
}

struct Tokens<'a> {
    words: Vec<&'a str>,
    position: usize,
}

impl<'a> Tokens<'a> {
    fn any(&mut self) -> Result<bool, String> {
        let mut verdict = self.all()?;
        while self.take("OR") {
            // Both sides are read, whatever the first one says.
            verdict |= self.all()?;
        }
        Ok(verdict)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut verdict = self.one()?;
        while self.take("AND") {
            verdict &= self.one()?;
        }
        Ok(verdict)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.take("(") {
            let verdict = self.any()?;
            return if self.take(")") { Ok(verdict) } else { Err("a parenthesis is not closed".to_owned()) };
        }
        let licence = self.name()?;
        if !self.take("WITH") {
            return Ok(ALLOWED.contains(&licence));
        }
        let exception = self.name()?;
        Ok(ALLOWED.contains(&format!("{licence} WITH {exception}").as_str()))
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let word = self.peek().filter(|word| !["OR", "AND", "WITH", "(", ")"].contains(word));
        self.position += 1;
        word.ok_or_else(|| "a licence's name is missing".to_owned())
    }

    fn take(&mut self, word: &str) -> bool {
        let is_there = self.peek() == Some(word);
        self.position += usize::from(is_there);
        is_there
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.position).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::PLATFORMS;

    #[test]
    fn expressions_are_judged_by_their_choices() {
        for (expression, verdict) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("Unlicense OR MIT", true),
            ("MIT/Apache-2.0", true),
            ("MIT AND BSD-3-Clause", true),
            ("MIT AND GPL-3.0-only", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(GPL-2.0-only OR Apache-2.0) AND LGPL-2.1-or-later", false),
            ("MIT OR GPL-2.0-only AND LGPL-2.1-or-later", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0-only WITH Classpath-exception-2.0", false),
        ] {
            assert_eq!(is_allowed(expression), Ok(verdict), "{expression}");
        }
    }

    #[test]
    fn what_is_no_expression_is_caught() {
        for expression in ["", "MIT OR", "(MIT", "MIT Apache-2.0", "AND MIT", "MIT)"] {
            assert!(is_allowed(expression).is_err(), "{expression}");
        }
    }

    #[test]
    fn a_foreign_crate_without_a_licence_and_an_own_one_with_another_are_caught() {
        assert!(complaint(None, false).is_some());
        assert!(complaint(Some("AGPL-3.0-only"), false).is_some());
        assert!(complaint(Some("MIT"), true).is_some());
        assert!(complaint(Some(OWN), true).is_none());
    }

    #[test]
    fn deny_toml_has_the_same_list() {
        let text = include_str!("../../../deny.toml");
        for licence in ALLOWED.iter().chain(&PLATFORMS) {
            assert!(text.contains(&format!("\"{licence}\"")), "{licence}");
        }
    }
}
