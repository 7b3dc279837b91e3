//! What is published can be: complete manifests, licences beside them, no arrow to what is not
//! published, and a line for every feature of the facade in its README.

use cargo_metadata::{DependencyKind, Package};
use serde_json::json;

use super::Violation;
use crate::tree::{SourceFile, Tree};

/// The facade, whose features are what users choose among.
const FACADE: &str = "micro-rs";
/// Where its features are explained.
const README: &str = "README.md";
const LICENCES: [&str; 2] = ["LICENSE-MIT", "LICENSE-APACHE"];
/// What crates.io takes at most.
const KEYWORD_COUNT_MAX: usize = 5;

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let published = tree.published();
    let all = tree.metadata.workspace_packages().into_iter();
    let private: Vec<&str> = all
        .filter(|package| published.iter().all(|other| other.id != package.id))
        .map(|package| package.name.as_str())
        .collect();
    let root = &tree.metadata.workspace_root;
    let mut found = Vec::new();
    for package in published {
        let folder = package.manifest_path.parent().expect("a manifest stands in a folder");
        let licences = LICENCES.into_iter().filter(|name| !folder.join(name).is_file());
        let manifest = package.manifest_path.strip_prefix(root).unwrap_or(&package.manifest_path).as_str();
        found.extend(
            of_manifest(package)
                .into_iter()
                .chain(of_arrows(package, &private))
                .chain(licences.map(|name| format!("there is no `{name}` beside it: link to the one of the root")))
                .map(|message| Violation::new(manifest, 0, message)),
        );
        if package.name.as_str() == FACADE {
            let features: Vec<&str> = package.features.keys().map(String::as_str).collect();
            found.extend(of_readme(&features, &tree.files));
        }
    }
    found
}

fn of_manifest(package: &Package) -> Vec<String> {
    let docs = &package.metadata["docs"]["rs"];
    let is_bare = |text: &Option<String>| text.as_deref().unwrap_or_default().trim().is_empty();
    [
        (is_bare(&package.description), "write a `description`"),
        (is_bare(&package.license), "write `license.workspace = true`"),
        (is_bare(&package.repository), "write `repository.workspace = true`"),
        (package.readme.is_none(), "write `readme.workspace = true`"),
        (package.rust_version.is_none(), "write `rust-version.workspace = true`"),
        (package.categories.is_empty(), "write `categories` of <https://crates.io/category_slugs>"),
        (
            package.keywords.is_empty() || package.keywords.len() > KEYWORD_COUNT_MAX,
            "write one to five `keywords` by which it is found",
        ),
        (
            docs["all-features"] != true || docs["rustdoc-args"] != json!(["--cfg", "docsrs"]),
            "write `[package.metadata.docs.rs]` with `all-features = true` and `rustdoc-args = [\"--cfg\", \"docsrs\"]`",
        ),
    ]
    .into_iter()
    .filter(|(is_missing, _)| *is_missing)
    .map(|(_, message)| message.to_owned())
    .collect()
}

fn of_arrows(package: &Package, private: &[&str]) -> Vec<String> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind != DependencyKind::Development)
        .filter(|dependency| private.contains(&dependency.name.as_str()))
        .map(|dependency| format!("`{}` is not published, so this cannot be", dependency.name))
        .collect()
}

fn of_readme(features: &[&str], files: &[SourceFile]) -> Vec<Violation> {
    let text = files.iter().find(|file| file.path == README).map_or("", |file| file.text.as_str());
    features
        .iter()
        .filter(|feature| !text.lines().any(|line| line.starts_with(&format!("| `{feature}` |"))))
        .map(|feature| Violation::new(README, 0, format!("the table of features has no row for `{feature}`")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(manifest: serde_json::Value) -> Package {
        let mut all = json!({
            "name": "a", "version": "0.1.0", "id": "a 0.1.0", "dependencies": [], "targets": [], "features": {},
            "manifest_path": "/a/Cargo.toml",
        });
        all.as_object_mut().unwrap().extend(manifest.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn a_bare_manifest_lacks_everything_and_a_full_one_nothing() {
        assert_eq!(of_manifest(&package(json!({}))).len(), 8);
        let full = package(json!({
            "description": "d", "license": "MIT", "repository": "r", "readme": "README.md", "rust_version": "1.95.0",
            "categories": ["database"], "keywords": ["outbox"],
            "metadata": {"docs": {"rs": {"all-features": true, "rustdoc-args": ["--cfg", "docsrs"]}}},
        }));
        assert_eq!(of_manifest(&full), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_to_a_private_crate_is_caught_outside_tests() {
        let dependency = |kind: Option<&str>| {
            json!({ "name": "suites", "req": "*", "kind": kind, "optional": false, "uses_default_features": true,
                    "features": [] })
        };
        let uses = package(json!({ "dependencies": [dependency(None)] }));
        assert_eq!(of_arrows(&uses, &["suites"]).len(), 1);
        let tests = package(json!({ "dependencies": [dependency(Some("dev"))] }));
        assert_eq!(of_arrows(&tests, &["suites"]).len(), 0);
    }

    #[test]
    fn a_feature_without_a_row_is_caught() {
        let files = [SourceFile { path: README.to_owned(), text: "| `grpc` | on tonic |\n".to_owned() }];
        let found = of_readme(&["grpc", "tx-sqlite"], &files);
        assert_eq!(found.len(), 1);
        assert!(found[0].message.ends_with("`tx-sqlite`"));
    }
}
