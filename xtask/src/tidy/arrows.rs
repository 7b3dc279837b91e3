//! Who may depend on whom, from what Cargo says of the workspace's crates.

use cargo_metadata::{DependencyKind, Package};

use super::Violation;
use crate::tree::{SourceFile, Tree};

/// The crate everything points to, by its package name.
const CORE: &str = "micro-rs-core";
const TESTKIT: &str = "micro-testkit";

/// What core may depend on. None of them is a driver, so that core's tree has none.
const CORE_DEPENDENCIES: &[&str] = &[
    "arc-swap",
    "async-trait",
    "bytes",
    "fastrand",
    "futures-core",
    "futures-util",
    "http",
    "prost",
    "serde",
    "serde_json",
    "thiserror",
    "tokio",
    "tokio-util",
    "tower-layer",
    "tower-service",
    "tracing",
    "uuid",
];

/// Features of tokio that open sockets, files or processes: not in core.
const CORE_TOKIO_BANNED: &[&str] = &["net", "fs", "process", "signal", "io-std", "full"];

/// What a crate is in the picture; the arrows follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Ports and logic.
    Core,
    /// Conformance suites.
    Testkit,
    /// tower layers.
    Middleware,
    /// Server and client: the only one whose public types may be tonic's.
    Grpc,
    /// For build scripts.
    Build,
    /// One backend.
    Adapter,
    /// What users depend on.
    Facade,
    /// What is built on the facade.
    Application,
    /// Starts real servers, for this tool and for tests.
    Servers,
    /// Measures applications from outside, and parts beside what others have in their place.
    Bench,
    /// This tool.
    Tool,
}

impl Role {
    /// `None` for a crate that has no place in the picture yet.
    fn of(name: &str, manifest: &str) -> Option<Self> {
        let adapters = ["micro-tx", "micro-etcd", "micro-redis", "micro-telemetry"];
        let adapter_prefixes = ["micro-broker-", "micro-registry-"];
        Some(match name {
            CORE => Self::Core,
            TESTKIT => Self::Testkit,
            "micro-middleware" => Self::Middleware,
            "micro-grpc" => Self::Grpc,
            "micro-build" => Self::Build,
            "micro-rs" => Self::Facade,
            "xtask" => Self::Tool,
            "dev-servers" => Self::Servers,
            "bench" => Self::Bench,
            _ if manifest.starts_with("examples/") => Self::Application,
            _ if adapters.contains(&name) || adapter_prefixes.iter().any(|prefix| name.starts_with(prefix)) => {
                Self::Adapter
            }
            _ => return None,
        })
    }

    /// Whether an arrow may point from this crate to that one, outside tests.
    fn may_use(self, other: Self) -> bool {
        match self {
            Self::Core | Self::Build | Self::Servers => false,
            Self::Tool => other == Self::Servers,
            Self::Bench => matches!(other, Self::Servers | Self::Core | Self::Grpc | Self::Adapter),
            Self::Testkit | Self::Middleware | Self::Adapter => other == Self::Core,
            Self::Grpc => matches!(other, Self::Core | Self::Middleware),
            Self::Facade => !matches!(
                other,
                Self::Application | Self::Tool | Self::Servers | Self::Bench | Self::Testkit | Self::Build
            ),
            Self::Application => !matches!(other, Self::Tool | Self::Servers | Self::Bench | Self::Testkit),
        }
    }

    /// As [`may_use`](Self::may_use), in tests and benches.
    fn may_use_in_tests(self, other: Self) -> bool {
        match self {
            Self::Core => other == Self::Testkit,
            Self::Testkit | Self::Tool => self.may_use(other),
            // What it generates implements core's traits.
            Self::Build => other == Self::Core,
            // Two adapters stay strangers in their tests as well.
            _ => matches!(other, Self::Testkit | Self::Servers | Self::Build) || self.may_use(other),
        }
    }

    /// Whether the crate may depend on tonic outside tests.
    fn may_use_tonic(self) -> bool {
        matches!(self, Self::Grpc | Self::Application | Self::Bench)
    }
}

/// A crate of the workspace, as far as the arrows care.
#[derive(Debug)]
struct Crate {
    name: String,
    /// From the root, with forward slashes.
    manifest: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug)]
struct Dependency {
    /// The package's name, whatever it is renamed to.
    name: String,
    kind: DependencyKind,
    has_version: bool,
    is_optional: bool,
    features: Vec<String>,
}

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let crates: Vec<Crate> = tree
        .metadata
        .workspace_packages()
        .into_iter()
        .map(|package| of_package(package, tree.metadata.workspace_root.as_str()))
        .collect();
    let mut found = violations(&crates);
    found.extend(suites_in_core(&tree.files));
    found
}

fn of_package(package: &Package, root: &str) -> Crate {
    let manifest = package.manifest_path.as_str().replace('\\', "/");
    let inside = manifest.strip_prefix(&root.replace('\\', "/")).unwrap_or(&manifest);
    Crate {
        name: package.name.to_string(),
        manifest: inside.trim_start_matches('/').to_owned(),
        dependencies: package
            .dependencies
            .iter()
            .map(|dependency| Dependency {
                name: dependency.name.clone(),
                kind: dependency.kind,
                has_version: dependency.req != cargo_metadata::semver::VersionReq::STAR,
                is_optional: dependency.optional,
                features: dependency.features.clone(),
            })
            .collect(),
    }
}

fn violations(crates: &[Crate]) -> Vec<Violation> {
    let mut found = Vec::new();
    for member in crates {
        let Some(role) = Role::of(&member.name, &member.manifest) else {
            let message = format!("`{}` has no role: give it one in xtask/src/tidy/arrows.rs", member.name);
            found.push(Violation::new(&member.manifest, 0, message));
            continue;
        };
        for dependency in &member.dependencies {
            let target = crates
                .iter()
                .find(|other| other.name == dependency.name)
                .and_then(|other| Role::of(&other.name, &other.manifest));
            let complaints = match target {
                Some(_) if is_exception(member, dependency) => Vec::new(),
                Some(target) => of_arrow(role, target, dependency),
                None => of_foreign(role, dependency),
            };
            found.extend(complaints.into_iter().map(|message| Violation::new(&member.manifest, 0, message)));
        }
    }
    found
}

/// The one arrow between crates of a rank: micro-tx's feature `dtm` calls DTM and branches by gRPC. Who
/// does not turn it on has no gRPC in the tree.
fn is_exception(member: &Crate, dependency: &Dependency) -> bool {
    member.name == "micro-tx" && dependency.name == "micro-grpc" && dependency.is_optional
}

fn of_arrow(role: Role, target: Role, dependency: &Dependency) -> Vec<String> {
    let is_test = dependency.kind == DependencyKind::Development;
    let is_allowed = match dependency.kind {
        DependencyKind::Development => role.may_use_in_tests(target),
        DependencyKind::Build => target == Role::Build,
        _ => role.may_use(target),
    };
    let mut complaints = Vec::new();
    if !is_allowed {
        let place = if is_test { " in tests" } else { "" };
        complaints.push(format!(
            "{role:?} must not depend on {target:?} (`{}`){place}: arrows point inward, see ARCHITECTURE.md",
            dependency.name
        ));
    }
    if is_test && target == Role::Testkit && dependency.has_version {
        complaints.push(format!("`{TESTKIT}` is a path dev-dependency without a version: it is not published"));
    }
    complaints
}

fn of_foreign(role: Role, dependency: &Dependency) -> Vec<String> {
    let name = dependency.name.as_str();
    let mut complaints = Vec::new();
    if dependency.kind == DependencyKind::Development {
        return complaints;
    }
    if role == Role::Core && !CORE_DEPENDENCIES.contains(&name) {
        complaints.push(format!("core may not depend on `{name}`: it is not on the list in xtask/src/tidy/arrows.rs"));
    }
    if role == Role::Core && name == "tokio" {
        let banned = dependency.features.iter().filter(|feature| CORE_TOKIO_BANNED.contains(&feature.as_str()));
        complaints
            .extend(banned.map(|feature| format!("core opens no socket or file: not tokio's feature `{feature}`")));
    }
    if name.starts_with("tonic") && !role.may_use_tonic() && role != Role::Build {
        complaints.push(format!("`{name}`: only micro-grpc's public types may be tonic's"));
    }
    complaints
}

/// Core takes the suites in its `tests/` only: inside `src/` they would be built on a second core.
fn suites_in_core(files: &[SourceFile]) -> Vec<Violation> {
    files
        .iter()
        .filter(|file| file.path.starts_with("micro-core/src/"))
        .flat_map(|file| file.text.lines().enumerate().map(move |(index, line)| (file, index + 1, line)))
        .filter(|(_, _, line)| line.contains("micro_testkit::"))
        .map(|(file, line, _)| Violation::new(&file.path, line, "use the suites from micro-core/tests/ only"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, folder: &str, dependencies: Vec<Dependency>) -> Crate {
        Crate { name: name.to_owned(), manifest: format!("{folder}/Cargo.toml"), dependencies }
    }

    fn on(name: &str, kind: DependencyKind) -> Dependency {
        Dependency { name: name.to_owned(), kind, has_version: false, is_optional: false, features: Vec::new() }
    }

    fn optional_on(name: &str) -> Dependency {
        Dependency { is_optional: true, ..on(name, DependencyKind::Normal) }
    }

    /// How many violations there are when `name` depends on `dependency` in a workspace of all roles.
    fn count(name: &str, folder: &str, dependency: Dependency) -> usize {
        let mut crates: Vec<Crate> = [
            (CORE, "micro-core"),
            (TESTKIT, "micro-testkit"),
            ("micro-middleware", "micro-middleware"),
            ("micro-grpc", "micro-grpc"),
            ("micro-build", "micro-build"),
            ("micro-tx", "micro-tx"),
            ("micro-broker-kafka", "micro-broker-kafka"),
            ("micro-rs", "."),
            ("order", "examples/order"),
        ]
        .into_iter()
        .filter(|(other, _)| *other != name)
        .map(|(name, folder)| member(name, folder, Vec::new()))
        .collect();
        crates.push(member(name, folder, vec![dependency]));
        violations(&crates).len()
    }

    #[test]
    fn arrows_that_point_outward_are_caught() {
        use DependencyKind::{Build, Development, Normal};
        for (name, folder, dependency) in [
            (CORE, "micro-core", on(TESTKIT, Normal)),
            (CORE, "micro-core", on("micro-tx", Development)),
            (CORE, "micro-core", on("sqlx", Normal)),
            ("micro-broker-kafka", "micro-broker-kafka", on("micro-tx", Normal)),
            ("micro-broker-kafka", "micro-broker-kafka", on("micro-tx", Development)),
            ("micro-tx", "micro-tx", on("micro-rs", Normal)),
            ("micro-tx", "micro-tx", on("tonic", Normal)),
            ("micro-tx", "micro-tx", on("micro-grpc", Normal)),
            ("micro-broker-kafka", "micro-broker-kafka", optional_on("micro-grpc")),
            ("micro-middleware", "micro-middleware", on("micro-grpc", Normal)),
            (TESTKIT, "micro-testkit", on("micro-tx", Normal)),
            ("micro-rs", ".", on(TESTKIT, Normal)),
            ("micro-rs", ".", on("order", Normal)),
            ("micro-rs", ".", on("tonic", Normal)),
            ("order", "examples/order", on(TESTKIT, Normal)),
            ("order", "examples/order", on("micro-tx", Build)),
            ("bench", "bench", on("order", Normal)),
        ] {
            let text = format!("{name} on {dependency:?}");
            assert_eq!(count(name, folder, dependency), 1, "{text}");
        }
    }

    #[test]
    fn arrows_that_point_inward_are_fine() {
        use DependencyKind::{Build, Development, Normal};
        for (name, folder, dependency) in [
            (CORE, "micro-core", on("tokio", Normal)),
            (CORE, "micro-core", on(TESTKIT, Development)),
            ("micro-tx", "micro-tx", on(CORE, Normal)),
            ("micro-tx", "micro-tx", on("sqlx", Normal)),
            ("micro-tx", "micro-tx", optional_on("micro-grpc")),
            ("micro-grpc", "micro-grpc", on("micro-middleware", Normal)),
            ("micro-grpc", "micro-grpc", on("tonic", Normal)),
            ("micro-rs", ".", on("micro-tx", Normal)),
            ("order", "examples/order", on("micro-build", Build)),
            ("order", "examples/order", on("micro-rs", Normal)),
            ("bench", "bench", on("micro-broker-kafka", Normal)),
        ] {
            let text = format!("{name} on {dependency:?}");
            assert_eq!(count(name, folder, dependency), 0, "{text}");
        }
    }

    #[test]
    fn a_crate_without_a_role_a_versioned_testkit_and_a_socket_in_core_are_caught() {
        assert_eq!(count("micro-novelty", "micro-novelty", on(CORE, DependencyKind::Normal)), 1);
        let versioned = Dependency { has_version: true, ..on(TESTKIT, DependencyKind::Development) };
        assert_eq!(count("micro-tx", "micro-tx", versioned), 1);
        let socket = Dependency { features: vec!["net".to_owned()], ..on("tokio", DependencyKind::Normal) };
        assert_eq!(count(CORE, "micro-core", socket), 1);
    }

    #[test]
    fn suites_inside_core_are_caught() {
        let text = "//! A port.\nuse micro_testkit::broker;\n".to_owned();
        let found = suites_in_core(&[SourceFile { path: "micro-core/src/broker/mod.rs".to_owned(), text }]);
        assert_eq!(found[0].line, 2);
    }
}
