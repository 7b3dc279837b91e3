//! Words that do not belong into the repository, and names that say nothing.
//!
//! The words are put together from pieces, so that this file does not contain what it looks for
//! and needs no exception from its own rule.

use std::path::Path;

use super::Violation;
use crate::tree::{SourceFile, Tree};

/// A word, and why it must not stand in a tracked file.
struct Word {
    /// Joined without a space, looked for whatever its case.
    pieces: &'static [&'static str],
    reason: &'static str,
}

const UNFINISHED: &str = "finish it, or leave it out and say so in the README's status";
const MACHINE: &str = "a path of one machine: make it relative, or take a temporary folder";
const MIRROR: &str = "a package mirror of one place: it belongs into the user's own Cargo configuration";
const VOICE: &str = "the project speaks in its own voice: say what is so";
const CONFLICT: &str = "a merge that was not finished";

const WORDS: &[Word] = &[
    Word { pieces: &["to", "do!("], reason: UNFINISHED },
    Word { pieces: &["unimpl", "emented!("], reason: UNFINISHED },
    Word { pieces: &["FIX", "ME"], reason: UNFINISHED },
    Word { pieces: &["// TO", "DO"], reason: UNFINISHED },
    Word { pieces: &["db", "g!("], reason: "a left-over of debugging: take it out, or make it a tracing event" },
    Word { pieces: &["#[ig", "nore"], reason: "a test that never runs shows nothing: mend it or remove it" },
    Word { pieces: &["/wo", "rk/"], reason: MACHINE },
    Word { pieces: &["/ro", "ot/"], reason: MACHINE },
    Word { pieces: &["/ho", "me/"], reason: MACHINE },
    Word { pieces: &["/Us", "ers/"], reason: MACHINE },
    Word { pieces: &["/tmp/ba", "sh_jobs"], reason: MACHINE },
    Word { pieces: &["index.cra", "tes.io/"], reason: MIRROR },
    Word { pieces: &["rsp", "roxy"], reason: MIRROR },
    Word { pieces: &["artif", "actory"], reason: MIRROR },
    Word { pieces: &["mirrors.", "ustc"], reason: MIRROR },
    Word { pieces: &["mirrors.", "tuna"], reason: MIRROR },
    Word { pieces: &["as an a", "i "], reason: VOICE },
    Word { pieces: &["language", " model"], reason: VOICE },
    Word { pieces: &["co-auth", "ored-by"], reason: VOICE },
    Word { pieces: &["<<<<", "<<< "], reason: CONFLICT },
    Word { pieces: &[">>>>", ">>> "], reason: CONFLICT },
];

/// Names of Rust files and folders that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc"];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    violations(&tree.files)
}

fn violations(files: &[SourceFile]) -> Vec<Violation> {
    let words: Vec<(String, &Word)> =
        WORDS.iter().map(|word| (word.pieces.concat().to_ascii_lowercase(), word)).collect();
    files.iter().flat_map(|file| empty_names(file).chain(banned_words(file, &words)).collect::<Vec<_>>()).collect()
}

fn banned_words<'a>(file: &'a SourceFile, words: &'a [(String, &Word)]) -> impl Iterator<Item = Violation> + 'a {
    file.text.lines().enumerate().flat_map(move |(index, line)| {
        let line = line.to_ascii_lowercase();
        words
            .iter()
            .filter(|(word, entry)| line.contains(word.as_str()) && !is_the_compilers(file, entry))
            .map(|(word, entry)| Violation::new(&file.path, index + 1, format!("`{}`: {}", word.trim(), entry.reason)))
            .collect::<Vec<_>>()
    })
}

/// What the compiler is expected to say may propose what we do not write.
fn is_the_compilers(file: &SourceFile, word: &Word) -> bool {
    file.path.ends_with(".stderr") && word.reason == UNFINISHED
}

fn empty_names(file: &SourceFile) -> impl Iterator<Item = Violation> + '_ {
    let names = if file.path.ends_with(".rs") { file.path.split('/').collect() } else { Vec::new() };
    names.into_iter().filter_map(|name| {
        let stem = Path::new(name).file_stem()?.to_str()?;
        EMPTY_NAMES
            .contains(&stem)
            .then(|| Violation::new(&file.path, 0, format!("`{stem}` tells nothing: name the file by what is in it")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, text: &str) -> Vec<Violation> {
        violations(&[SourceFile { path: path.to_owned(), text: text.to_owned() }])
    }

    #[test]
    fn every_word_of_the_list_is_caught_with_its_line() {
        for word in WORDS {
            let found = of("a.md", &format!("fine\nsome {} here\n", word.pieces.concat().to_uppercase()));
            assert!(found.iter().any(|violation| violation.line == 2), "{:?}", word.pieces);
        }
    }

    #[test]
    fn the_compiler_may_propose_what_we_do_not_write() {
        assert_eq!(of("a/fails.stderr", &["{ to", "do!() }"].concat()).len(), 0);
        assert_eq!(of("a/fails.stderr", &["/ro", "ot/a.rs"].concat()).len(), 1);
    }

    #[test]
    fn this_file_needs_no_exception() {
        assert_eq!(of("words.rs", include_str!("words.rs")).len(), 0);
    }

    #[test]
    fn a_name_that_says_nothing_is_caught() {
        assert_eq!(of("a/utils.rs", "").len(), 1);
        assert_eq!(of("a/common/mod.rs", "").len(), 1);
        assert_eq!(of("a/proto/common.proto", "").len(), 0);
        assert_eq!(of("a/src/batch.rs", "").len(), 0);
    }
}
