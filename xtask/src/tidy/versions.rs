//! One version table: a member's manifest says `workspace = true`, never a version of its own.

use super::Violation;
use crate::tree::{SourceFile, Tree};

/// No member: it stands apart from the workspace and cannot take its table.
const APART: &str = "fuzz/Cargo.toml";

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    violations(&tree.files)
}

fn violations(files: &[SourceFile]) -> Vec<Violation> {
    let is_member = |file: &&SourceFile| file.path.ends_with("/Cargo.toml") && file.path != APART;
    files.iter().filter(is_member).flat_map(of_manifest).collect()
}

fn of_manifest(file: &SourceFile) -> Vec<Violation> {
    let mut is_dependencies = false;
    let mut found = Vec::new();
    for (index, line) in file.text.lines().map(str::trim).enumerate() {
        if let Some(section) = line.strip_prefix('[') {
            is_dependencies = section.trim_end_matches(']').ends_with("dependencies");
        } else if is_dependencies && line.contains('=') && !line.starts_with('#') && !takes_the_table(line) {
            let message = "take the version from the table in the root Cargo.toml: `name.workspace = true`";
            found.push(Violation::new(&file.path, index + 1, message));
        }
    }
    found
}

fn takes_the_table(line: &str) -> bool {
    line.replace(' ', "").contains("workspace=true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_its_own_is_caught() {
        let text = "[package]\nversion = \"1\"\n[dev-dependencies]\nbytes = \"1\"\nhttp.workspace = true\n\
                    tokio = { workspace = true, features = [\"rt\"] }\n";
        let of = |path: &str| violations(&[SourceFile { path: path.to_owned(), text: text.to_owned() }]);
        assert_eq!(of("a/Cargo.toml").iter().map(|violation| violation.line).collect::<Vec<_>>(), [4]);
        assert_eq!(of(APART).len(), 0);
    }
}
