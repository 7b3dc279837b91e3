//! `cargo xtask check`: everything that is judged without running a test.

use std::process::ExitCode;

use crate::{
    features, package,
    step::{cargo_step, step},
    tidy,
    tree::Tree,
};

/// The facade: the package whose features must each compile alone.
const FACADE: &str = "micro-rs";

/// Runs every step and answers 1 where one failed.
pub(crate) fn run(tree: &Tree) -> ExitCode {
    if passes(tree) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether every step succeeds. What reads files runs to its end, so that one run names all that is
/// to be mended; of the steps that compile, the first that fails ends the run, for the next ones
/// would only repeat its complaint.
pub(crate) fn passes(tree: &Tree) -> bool {
    let root = &tree.root;
    let is_formatted = cargo_step(root, "fmt", &["fmt", "--all", "--check"], &[]);
    let is_tidy = tidy::passes(tree);
    let packs = package::passes(tree);
    let features = features::arguments(tree);
    let with_features = |before: &[&'static str], after: &[&'static str]| -> Vec<&str> {
        before.iter().copied().chain(features.iter().map(String::as_str)).chain(after.iter().copied()).collect()
    };
    let clippy = with_features(&["clippy", "--quiet", "--workspace", "--all-targets"], &["--", "-D", "warnings"]);
    let doc = with_features(&["doc", "--quiet", "--workspace", "--no-deps"], &[]);
    let compiles = cargo_step(root, "clippy", &clippy, &[])
        && cargo_step(root, "doc", &doc, &[("RUSTDOCFLAGS", "-D warnings")])
        && features_compile_alone(tree);
    is_formatted && is_tidy && packs && compiles
}

fn features_compile_alone(tree: &Tree) -> bool {
    let Some(facade) = tree.metadata.packages.iter().find(|package| package.name.as_str() == FACADE) else {
        return step("features", || Err(format!("there is no package {FACADE}: mend FACADE in xtask/src/check.rs")));
    };
    let features = facade.features.keys().map(String::as_str).filter(|feature| *feature != "default");
    let features = features.filter(|feature| features::can_be_built(tree, FACADE, feature));
    std::iter::once("").chain(features).all(|feature| {
        let name = if feature.is_empty() { "no feature".to_owned() } else { format!("feature {feature}") };
        let arguments = ["check", "--quiet", "-p", FACADE, "--no-default-features", "--features", feature];
        cargo_step(&tree.root, &name, &arguments, &[])
    })
}
