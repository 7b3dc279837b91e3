//! Which features the checks and tests turn on: all, but for those whose build needs what is not there.

use std::{
    collections::BTreeSet,
    env,
    process::{Command, Stdio},
    sync::OnceLock,
};

use cargo_metadata::Package;

use crate::tree::Tree;

/// Something of the system without which a part of the workspace cannot be built.
struct Native {
    name: &'static str,
    /// The Debian packages that have it, and the programs that the tests of that part use.
    debian_packages: &'static [&'static str],
    is_there: fn() -> bool,
    needed_by: NeededBy,
}

enum NeededBy {
    /// A feature of a dependency.
    Feature(&'static str, &'static str),
    /// A dependency, whatever its features.
    Dependency(&'static str),
}

/// OpenSSL is linked for Kafka's TLS; the build of etcd's client compiles proto files.
const NATIVES: [Native; 2] = [
    Native {
        name: "OpenSSL",
        debian_packages: &["libssl-dev", "openssl", "pkg-config"],
        is_there: has_openssl,
        needed_by: NeededBy::Feature("rdkafka", "ssl"),
    },
    Native {
        name: "protoc with Google's proto files",
        debian_packages: &["protobuf-compiler", "libprotobuf-dev"],
        is_there: has_protoc,
        needed_by: NeededBy::Dependency("etcd-client"),
    },
];

/// What is left out of a build.
#[derive(Debug, Default, PartialEq, Eq)]
struct LeftOut<'a> {
    crates: BTreeSet<&'a str>,
    features: BTreeSet<Feature<'a>>,
}

/// The arguments, beside `--workspace`, by which Cargo turns on all that can be built here.
///
/// On a fresh machine of CI what is missing is installed, so that nothing is left out there.
pub(crate) fn arguments(tree: &Tree) -> Vec<String> {
    let packages = tree.metadata.workspace_packages();
    let left_out = left_out(&packages);
    if left_out == LeftOut::default() {
        return vec!["--all-features".to_owned()];
    }
    let is_built = |feature: &Feature<'_>| !left_out.crates.contains(feature.0) && !left_out.features.contains(feature);
    let features: Vec<String> =
        all(&packages).filter(is_built).map(|(package, feature)| format!("{package}/{feature}")).collect();
    let excluded = left_out.crates.iter().flat_map(|package| ["--exclude".to_owned(), (*package).to_owned()]);
    excluded.chain(["--features".to_owned(), features.join(",")]).collect()
}

/// Whether a feature of this package can be built here.
pub(crate) fn can_be_built(tree: &Tree, package: &str, feature: &str) -> bool {
    !left_out(&tree.metadata.workspace_packages()).features.contains(&(package, feature))
}

/// What cannot be built here. It is told, and the missing is installed under CI, at the first question.
fn left_out<'a>(packages: &[&'a Package]) -> LeftOut<'a> {
    static MISSING: OnceLock<Vec<usize>> = OnceLock::new();
    let is_needed = |native: &Native| needing(packages, &native.needed_by) != LeftOut::default();
    let missing = MISSING.get_or_init(|| {
        let is_missing = |index: &usize| is_needed(&NATIVES[*index]) && !(NATIVES[*index].is_there)();
        let missing: Vec<usize> = (0..NATIVES.len()).filter(is_missing).collect();
        for native in missing.iter().map(|index| &NATIVES[*index]) {
            got_or_told(native, &needing(packages, &native.needed_by));
        }
        // Where it did not come, the build says so: under CI nothing is left out.
        if env::var_os("CI").is_some() { Vec::new() } else { missing }
    });
    missing.iter().fold(LeftOut::default(), |mut all, index| {
        let LeftOut { crates, features } = needing(packages, &NATIVES[*index].needed_by);
        all.crates.extend(crates);
        all.features.extend(features);
        all
    })
}

fn got_or_told(native: &Native, left_out: &LeftOut<'_>) {
    if env::var_os("CI").is_some() {
        if let Err(error) = dev_servers::install_packages(native.debian_packages) {
            eprintln!("{error}");
        }
        return;
    }
    let features = left_out.features.iter().map(|(package, feature)| format!("{package}/{feature}"));
    let names: Vec<String> = left_out.crates.iter().map(|name| (*name).to_owned()).chain(features).collect();
    let (name, packages) = (native.name, native.debian_packages.join(", "));
    eprintln!("without {}: {name} is not there (Debian's {packages})", names.join(", "));
}

fn has_openssl() -> bool {
    succeeds("pkg-config", &["--exists", "openssl"]) && succeeds("openssl", &["version"])
}

fn has_protoc() -> bool {
    succeeds("protoc", &["--descriptor_set_out=/dev/null", "google/protobuf/descriptor.proto"])
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

/// The crates that cannot be built without it, and the features that turn it or such a crate on,
/// themselves or by others.
fn needing<'a>(packages: &[&'a Package], needed_by: &NeededBy) -> LeftOut<'a> {
    let mut left_out = LeftOut::default();
    let feature = match needed_by {
        NeededBy::Feature(package, feature) => Some((*package, *feature)),
        NeededBy::Dependency(name) => {
            let has = |package: &&&Package| package.dependencies.iter().any(|other| other.name == *name);
            left_out.crates = packages.iter().filter(has).map(|package| package.name.as_str()).collect();
            None
        }
    };
    loop {
        let before = left_out.features.len();
        for package in packages {
            for (name, parts) in &package.features {
                let needs = |part: &String| {
                    let turned_on = target(package, part);
                    let is_crate = left_out.crates.contains(part.strip_prefix("dep:").unwrap_or_default());
                    is_crate || turned_on.is_some_and(|to| Some(to) == feature || left_out.features.contains(&to))
                };
                if parts.iter().any(needs) {
                    left_out.features.insert((package.name.as_str(), name.as_str()));
                }
            }
        }
        if left_out.features.len() == before {
            return left_out;
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
        let features = BTreeSet::from([("kafka", "tls"), ("facade", "tls"), ("facade", "full")]);
        let found = needing(&[&facade, &adapter], &NeededBy::Feature("rdkafka", "ssl"));
        assert_eq!(found, LeftOut { features, ..LeftOut::default() });
    }

    #[test]
    fn a_crate_that_cannot_be_built_is_left_out_with_the_features_that_turn_it_on() {
        let adapter = package("etcd", json!({ "tls": ["etcd-client/tls-ring"] }), "etcd-client", None);
        let features = json!({ "full": ["registry"], "registry": ["dep:etcd", "etcd/tls"], "other": [] });
        let facade = package("facade", features, "etcd", None);
        let expected = LeftOut {
            crates: BTreeSet::from(["etcd"]),
            features: BTreeSet::from([("facade", "registry"), ("facade", "full")]),
        };
        assert_eq!(needing(&[&facade, &adapter], &NeededBy::Dependency("etcd-client")), expected);
    }
}
