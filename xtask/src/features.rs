//! Which features the checks and tests turn on: all, but for those that link what is not there.

use std::{
    collections::BTreeSet,
    env,
    process::{Command, Stdio},
};

use cargo_metadata::Package;

use crate::tree::Tree;

/// The one feature of a dependency that links a library of the system: OpenSSL, for Kafka's TLS.
const LINKING: (&str, &str) = ("rdkafka", "ssl");

/// The Debian packages that a build with it needs, and the program by which its tests make certificates.
const PACKAGES: [&str; 3] = ["libssl-dev", "openssl", "pkg-config"];

/// The arguments by which Cargo turns on all features that can be built here.
///
/// On a fresh machine of CI what is missing is installed, so that nothing is left out there.
pub(crate) fn arguments(tree: &Tree) -> Vec<String> {
    let packages = tree.metadata.workspace_packages();
    let linking = linking(&packages);
    if linking.is_empty() || has_openssl() {
        return vec!["--all-features".to_owned()];
    }
    if env::var_os("CI").is_some() {
        if let Err(error) = dev_servers::install_packages(&PACKAGES) {
            eprintln!("{error}");
        }
        // Where it did not come, the build says so: under CI nothing is left out.
        return vec!["--all-features".to_owned()];
    }
    let left_out: Vec<String> = linking.iter().map(|(package, feature)| format!("{package}/{feature}")).collect();
    eprintln!("without {}: OpenSSL is not there (Debian's {})", left_out.join(", "), PACKAGES.join(", "));
    let features = all(&packages).filter(|feature| !linking.contains(feature));
    let features: Vec<String> = features.map(|(package, feature)| format!("{package}/{feature}")).collect();
    vec!["--features".to_owned(), features.join(",")]
}

fn has_openssl() -> bool {
    succeeds("pkg-config", &["--exists", "openssl"]) && succeeds("openssl", &["version"])
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A package and a feature of it.
type Feature<'a> = (&'a str, &'a str);

fn all<'a>(packages: &[&'a Package]) -> impl Iterator<Item = Feature<'a>> {
    packages.iter().flat_map(|package| package.features.keys().map(|feature| (package.name.as_str(), feature.as_str())))
}

/// The features that turn the linking one on, themselves or by others.
fn linking<'a>(packages: &[&'a Package]) -> BTreeSet<Feature<'a>> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for package in packages {
            for (feature, parts) in &package.features {
                let links =
                    |part: &String| target(package, part).is_some_and(|to| to == LINKING || found.contains(&to));
                if parts.iter().any(links) {
                    found.insert((package.name.as_str(), feature.as_str()));
                }
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The feature that a part of a feature's list turns on: `other` of the package's own, `name/other`
/// of a dependency's; `None` for `dep:name`.
fn target<'a>(package: &'a Package, part: &'a str) -> Option<Feature<'a>> {
    let Some((name, feature)) = part.split_once('/') else {
        return (!part.starts_with("dep:")).then_some((package.name.as_str(), part));
    };
    let name = name.trim_end_matches('?');
    let is_named =
        |dependency: &&cargo_metadata::Dependency| dependency.rename.as_deref().unwrap_or(&dependency.name) == name;
    package.dependencies.iter().find(is_named).map(|dependency| (dependency.name.as_str(), feature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, features: serde_json::Value, dependency: &str, rename: Option<&str>) -> Package {
        serde_json::from_value(json!({
            "name": name, "version": "0.1.0", "id": name, "targets": [], "features": features,
            "manifest_path": "/a/Cargo.toml",
            "dependencies": [{ "name": dependency, "rename": rename, "req": "*", "kind": null, "optional": true,
                               "uses_default_features": true, "features": [] }],
        }))
        .unwrap()
    }

    #[test]
    fn a_feature_links_what_its_parts_link_through_any_number_of_crates() {
        let adapter = package("kafka", json!({ "tls": ["rdkafka/ssl"], "plain": ["rdkafka/tokio"] }), "rdkafka", None);
        let facade = package(
            "facade",
            json!({ "full": ["tls"], "tls": ["broker?/tls"], "broker": ["dep:broker"], "other": ["broker/plain"] }),
            "kafka",
            Some("broker"),
        );
        let expected = BTreeSet::from([("kafka", "tls"), ("facade", "tls"), ("facade", "full")]);
        assert_eq!(linking(&[&facade, &adapter]), expected);
    }
}
