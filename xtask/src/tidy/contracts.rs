//! Every bullet of a `# Contract` in micro-core names a conformance test that exists in the testkit.

use std::collections::BTreeSet;

use super::Violation;
use crate::tree::{SourceFile, Tree};

const PORTS: &str = "micro-core/src/";
const SUITES: &str = "micro-testkit/src/";

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    violations(&tree.files)
}

fn violations(files: &[SourceFile]) -> Vec<Violation> {
    let below = |folder: &'static str| files.iter().filter(move |file| file.path.starts_with(folder));
    let functions: BTreeSet<&str> = below(SUITES).flat_map(|file| function_names(&file.text)).collect();
    below(PORTS)
        .flat_map(|file| promises(&file.text).into_iter().map(move |promise| (file, promise)))
        .filter_map(|(file, (line, promise))| {
            let message = match promise {
                None => "begin the bullet with its conformance test's name in backticks".to_owned(),
                Some(name) if !functions.contains(name) => {
                    format!("no `fn {name}` in {SUITES}: write the conformance test, or take the promise back")
                }
                Some(_) => return None,
            };
            Some(Violation::new(&file.path, line, message))
        })
        .collect()
}

/// The bullets of the `# Contract` sections, by line: the name each begins with.
fn promises(text: &str) -> Vec<(usize, Option<&str>)> {
    let mut is_contract = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        let Some(doc) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
            is_contract = false;
            continue;
        };
        let doc = doc.strip_prefix(' ').unwrap_or(doc);
        if doc.starts_with("# ") {
            is_contract = doc == "# Contract";
        } else if is_contract && let Some(bullet) = doc.strip_prefix("- ") {
            found.push((index + 1, quoted_name(bullet)));
        }
    }
    found
}

fn quoted_name(bullet: &str) -> Option<&str> {
    let (name, _) = bullet.strip_prefix('`')?.split_once('`')?;
    let is_name = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    (name.contains('_') && name.chars().all(is_name)).then_some(name)
}

fn function_names(text: &str) -> impl Iterator<Item = &str> {
    text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_without_a_test_is_caught() {
        let port = "/// A port.\n///\n/// # Contract\n///\n/// - `kept_order`: always.\n/// - `lost_promise`.\n\
                    /// - something vague.\n///\n/// # Errors\n///\n/// - `no_promise`.\ntrait Port {}\n";
        let files = [
            SourceFile { path: "micro-core/src/port.rs".to_owned(), text: port.to_owned() },
            SourceFile { path: "micro-testkit/src/port.rs".to_owned(), text: "async fn kept_order() {}".to_owned() },
        ];
        let lines: Vec<usize> = violations(&files).iter().map(|violation| violation.line).collect();
        assert_eq!(lines, [6, 7]);
    }
}
