//! `docs/releases.md` says which versions of the drivers a release takes: the ones of the root's table.

use std::collections::BTreeMap;

use cargo_metadata::semver::{Version, VersionReq};

use super::Violation;
use crate::tree::{SourceFile, Tree};

const PAPER: &str = "docs/releases.md";
/// The column of our own version.
const OWN: &str = "micro-rs";
/// What a cell begins with whose driver no adapter takes yet.
const PLANNED: &str = "planned";

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let packages = tree.metadata.workspace_packages();
    let Some(own) = packages.iter().find(|package| package.name.as_str() == OWN).map(|package| &package.version) else {
        return vec![Violation::new(PAPER, 0, format!("there is no package `{OWN}`"))];
    };
    let taken = packages.iter().flat_map(|package| &package.dependencies);
    let mut versions: BTreeMap<&str, String> =
        taken.map(|dependency| (dependency.name.as_str(), short(&dependency.req))).collect();
    if let Some(rust) = packages.iter().find_map(|package| package.rust_version.as_ref()) {
        versions.insert("Rust", format!("{}.{}", rust.major, rust.minor));
    }
    violations(&tree.files, own, &versions)
}

/// `versions` has what each driver is taken in, by its name.
fn violations(files: &[SourceFile], own: &Version, versions: &BTreeMap<&str, String>) -> Vec<Violation> {
    let text = files.iter().find(|file| file.path == PAPER).map_or("", |file| file.text.as_str());
    let mut rows = text.lines().enumerate().filter(|(_, line)| line.starts_with('|')).map(|(index, line)| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        (index + 1, cells)
    });
    let Some((_, columns)) = rows.next().filter(|(_, columns)| columns.first() == Some(&OWN)) else {
        return vec![Violation::new(PAPER, 0, format!("there is no table whose first column is `{OWN}`"))];
    };
    let release = format!("{}.{}", own.major, own.minor);
    let Some((line, cells)) = rows.find(|(_, cells)| cells.first() == Some(&release.as_str())) else {
        return vec![Violation::new(PAPER, 0, format!("the table has no row for {release}"))];
    };
    columns
        .iter()
        .zip(cells.iter().copied().chain(std::iter::repeat("")))
        .skip(1)
        .filter_map(|(column, cell)| match versions.get(column) {
            Some(version) => (cell != version).then(|| format!("`{column}` is taken in {version}, not `{cell}`")),
            None => (!cell.starts_with(PLANNED)).then(|| format!("no crate takes `{column}`: write `{PLANNED} …`")),
        })
        .map(|message| Violation::new(PAPER, line, message))
        .collect()
}

/// `0.39` of `^0.39.0`, `1` of `^1`: what a user must match.
fn short(requirement: &VersionReq) -> String {
    let Some(comparator) = requirement.comparators.first() else { return "any".to_owned() };
    match comparator.minor {
        Some(minor) if comparator.major == 0 => format!("0.{minor}"),
        _ => comparator.major.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let files = [SourceFile { path: PAPER.to_owned(), text: text.to_owned() }];
        let versions = BTreeMap::from([("sqlx", "0.9".to_owned()), ("Rust", "1.95".to_owned())]);
        violations(&files, &Version::new(0, 2, 3), &versions).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn a_row_that_is_not_what_the_table_says_is_caught() {
        let head = "# Releases\n\n| micro-rs | sqlx | Rust | etcd-client |\n| --- | --- | --- | --- |\n";
        assert_eq!(of(&format!("{head}| 0.2 | 0.9 | 1.95 | planned, 0.21 |\n")), Vec::<String>::new());
        assert_eq!(
            of(&format!("{head}| 0.2 | 0.8 | 1.95 | 0.21 |\n")),
            [
                "docs/releases.md:5: `sqlx` is taken in 0.9, not `0.8`",
                "docs/releases.md:5: no crate takes `etcd-client`: write `planned …`",
            ]
        );
        assert_eq!(of(&format!("{head}| 0.1 | 0.9 |\n")), ["docs/releases.md: the table has no row for 0.2"]);
        assert_eq!(of(""), ["docs/releases.md: there is no table whose first column is `micro-rs`"]);
    }

    #[test]
    fn a_version_is_shortened_to_what_must_match() {
        let short = |text: &str| short(&VersionReq::parse(text).unwrap());
        assert_eq!(["^0.39", "^0.14.9", "^1", "^1.2", "*"].map(short), ["0.39", "0.14", "1", "1", "any"]);
    }
}
