//! What the papers point to is there: relative links, and in backticks paths and names of tests.

use std::collections::BTreeSet;

use super::Violation;
use crate::tree::{SourceFile, Tree};

/// The papers that name the tests which show their promises.
const PROOFS: [&str; 3] = ["docs/reliability.md", "docs/adapters.md", "docs/from-go-micro.md"];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    violations(&tree.files)
}

fn violations(files: &[SourceFile]) -> Vec<Violation> {
    let places = places(files);
    let tests = tests_of(files);
    let roots: BTreeSet<&str> = files.iter().filter_map(|file| Some(file.path.split_once('/')?.0)).collect();
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (index, line) in file.text.lines().enumerate() {
            let broken_links = links(line).filter(|target| !places.contains(&resolve(&file.path, target)));
            let lost_paths = quoted(line)
                .filter(|path| path.split_once('/').is_some_and(|(root, _)| roots.contains(root)) && is_path(path))
                .filter(|path| !places.contains(path.trim_end_matches('/')));
            let lost_tests =
                quoted(line).filter(|name| PROOFS.contains(&&*file.path) && is_sentence(name) && !tests.contains(name));
            found.extend(
                broken_links
                    .chain(lost_paths)
                    .chain(lost_tests)
                    .map(|target| Violation::new(&file.path, index + 1, format!("there is no `{target}`"))),
            );
        }
    }
    found
}

/// Every file, and every folder that has one.
fn places(files: &[SourceFile]) -> BTreeSet<String> {
    files
        .iter()
        .flat_map(|file| {
            let folders = file.path.match_indices('/').map(|(end, _)| file.path[..end].to_owned());
            folders.chain([file.path.clone()])
        })
        .collect()
}

/// The names of all tests: functions with a test's attribute, and those that a macro is handed by name,
/// on the same line or on lines of their own, to make tests of them.
fn tests_of(files: &[SourceFile]) -> BTreeSet<&str> {
    let rust = files.iter().filter(|file| file.path.ends_with(".rs"));
    let (mut tests, mut listed, mut functions) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for file in rust {
        let (mut is_test, mut is_list) = (false, false);
        for line in file.text.lines().map(str::trim) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            if let Some(name) = function(line) {
                functions.insert(name);
                if std::mem::take(&mut is_test) {
                    tests.insert(name);
                }
            }
            is_test &= !line.is_empty();
            is_list = if is_list { !line.starts_with(['}', ')']) } else { begins_list(line) };
            let names = if is_list { line } else { arguments(line) };
            listed.extend(names.split(',').map(str::trim).filter(|name| is_sentence(name)));
        }
    }
    tests.extend(listed.intersection(&functions));
    tests
}

/// The name of the function that a line begins.
fn function(line: &str) -> Option<&str> {
    let words = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
    words.trim_start_matches("async ").strip_prefix("fn ")?.split(['(', '<']).next()
}

/// What a macro is handed on the line that calls it; nothing for any other line.
fn arguments(line: &str) -> &str {
    let handed = line.split_once("!(").and_then(|(_, rest)| rest.strip_suffix(");"));
    handed.unwrap_or_default()
}

/// Whether a line begins what a macro is handed on lines of its own.
fn begins_list(line: &str) -> bool {
    let begin = line.trim_end_matches(['{', '(', ' ']);
    begin.len() < line.len() && begin.ends_with('!')
}

/// What the names of metrics and of a server's settings begin with.
const NAMESPACES: [&str; 2] = ["micro_", "innodb_"];

/// Whether a name is a test's: snake case of four words or more.
fn is_sentence(name: &str) -> bool {
    if NAMESPACES.iter().any(|namespace| name.starts_with(namespace)) {
        return false;
    }
    let is_snake = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    name.chars().all(is_snake) && name.matches('_').count() >= 3
}

/// The targets of a line's links inside the repository, without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.starts_with('#') && !target.starts_with("mailto:"))
        .filter_map(|target| target.split('#').next())
}

fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Neither a command nor a pattern.
fn is_path(text: &str) -> bool {
    text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_./".contains(letter)) && !text.contains("..")
}

fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_a_path_or_a_test_that_is_not_there_is_caught() {
        let text = "[a](adr/0001.md) [b](../README.md#top) [c](https://example.org/x) [d](#here)\n\
                    [gone](adr/0002.md)\n\
                    `src/lib.rs` `src/` `a/b` `cargo run src/x` `src/gone.rs`\n\
                    `one_test_is_there` `retry_count_max` `one_test_is_gone`\n\
                    `a_test_of_a_runtime` `a_function_of_four_words` `a_listed_suite_function` `a_listed_name_alone`\n\
                    `a_function_on_one_line` `a_name_in_some_call` `the_next_function_is_none`\n";
        let code = "#[test]\n#[should_panic(\n  expected = \"x\"\n)]\nfn one_test_is_there() {}\n\
                    #[tokio::test(start_paused = true)]\nasync fn a_test_of_a_runtime() {}\n\
                    fn the_next_function_is_none() {}\n\
                    fn a_function_of_four_words() {}\npub async fn a_listed_suite_function<T>(t: T) {}\n\
                    on_each! {\n    a_listed_suite_function,\n    a_listed_name_alone\n}\n\
                    fn a_function_on_one_line() {}\non_one!(Mariadb, a_function_on_one_line);\n\
                    call(\n    a_name_in_some_call\n);\nfn a_name_in_some_call() {}\n";
        let files = [("docs/reliability.md", text), ("docs/adr/0001.md", ""), ("README.md", ""), ("src/lib.rs", code)]
            .map(|(path, text)| SourceFile { path: path.to_owned(), text: text.to_owned() });
        let found: Vec<String> = violations(&files).iter().map(Violation::to_string).collect();
        let expected = [
            "docs/reliability.md:2: there is no `adr/0002.md`",
            "docs/reliability.md:3: there is no `src/gone.rs`",
            "docs/reliability.md:4: there is no `one_test_is_gone`",
            "docs/reliability.md:5: there is no `a_function_of_four_words`",
            "docs/reliability.md:5: there is no `a_listed_name_alone`",
            "docs/reliability.md:6: there is no `a_name_in_some_call`",
            "docs/reliability.md:6: there is no `the_next_function_is_none`",
        ];
        assert_eq!(found, expected);
    }
}
