//! The tidy rules: what a reviewer would otherwise have to look for by hand.

mod arrows;
mod contracts;
mod headers;
mod layers;
mod licences;
mod links;
mod published;
mod releases;
mod versions;
mod words;

use std::{fmt, process::ExitCode};

use crate::{step::step, tree::Tree};

/// Looks for the places where one rule is broken.
type Rule = fn(&Tree) -> Vec<Violation>;

/// The rules by name.
const RULES: [(&str, Rule); 10] = [
    ("tidy: crate arrows", arrows::check),
    ("tidy: layers of the examples", layers::check),
    ("tidy: first lines", headers::check),
    ("tidy: words and names", words::check),
    ("tidy: one version table", versions::check),
    ("tidy: contracts have tests", contracts::check),
    ("tidy: what the papers name", links::check),
    ("tidy: licences", licences::check),
    ("tidy: what is published", published::check),
    ("tidy: which release takes what", releases::check),
];

/// Runs every rule and answers 1 where one is broken.
pub(crate) fn run(tree: &Tree) -> ExitCode {
    if passes(tree) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether every rule holds; each runs to its end.
pub(crate) fn passes(tree: &Tree) -> bool {
    let mut all_hold = true;
    for (name, rule) in RULES {
        all_hold &= step(name, || complaint(&rule(tree)));
    }
    all_hold
}

fn complaint(violations: &[Violation]) -> Result<(), String> {
    if violations.is_empty() {
        return Ok(());
    }
    Err(violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("\n"))
}

/// A place where a rule is broken, and what to do about it.
#[derive(Debug)]
struct Violation {
    file: String,
    /// From 1; 0 where the file as a whole is meant.
    line: usize,
    message: String,
}

impl Violation {
    fn new(file: impl Into<String>, line: usize, message: impl Into<String>) -> Self {
        Self { file: file.into(), line, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}
