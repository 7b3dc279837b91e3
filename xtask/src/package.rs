//! What would be published: every crate packs, with its licences, README and all that it includes.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use cargo_metadata::Package;

use crate::{
    step::{cargo, cargo_step, step},
    tree::Tree,
};

/// What each package has beside its code.
const ALWAYS: [&str; 4] = ["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Packs all and looks at what is in them.
///
/// `--no-verify`: verifying builds every crate and its dependencies once more, librdkafka among
/// them, five minutes of one core, and would show two things that the other steps do not: a file that
/// is not packed, which the look at the lists shows, and a dependency that is not published, which
/// `tidy` shows.
pub(crate) fn passes(tree: &Tree) -> bool {
    let published = tree.published();
    let mut arguments = vec!["package", "--no-verify", "--allow-dirty", "--quiet"];
    for package in &published {
        arguments.extend(["-p", package.name.as_str()]);
    }
    cargo_step(&tree.root, "package", &arguments, &[])
        && step("package: what is in it", || {
            let complaints =
                published.iter().map(|package| complaints(tree, package)).collect::<Result<Vec<_>, _>>()?;
            let complaints = complaints.concat();
            if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n")) }
        })
}

fn complaints(tree: &Tree, package: &Package) -> Result<Vec<String>, String> {
    let output = cargo(&tree.root)
        .args(["package", "--list", "--allow-dirty", "-p", package.name.as_str()])
        .output()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout).replace('\\', "/");
    let packed: BTreeSet<PathBuf> = text.lines().map(PathBuf::from).collect();
    let folder = package.manifest_path.parent().expect("a manifest stands in a folder");
    let inside = folder.strip_prefix(&tree.metadata.workspace_root).map_or("", |path| path.as_str()).replace('\\', "/");
    let sources = tree.files.iter().filter_map(|file| {
        let path = Path::new(&file.path).strip_prefix(&inside).ok()?;
        let is_code = path.starts_with("src") && path.extension().is_some_and(|extension| extension == "rs");
        is_code.then_some((path, file.text.as_str()))
    });
    let needed = ALWAYS.map(PathBuf::from).into_iter().chain(sources.flat_map(|(path, text)| included(path, text)));
    Ok(missing(package.name.as_str(), needed, &packed))
}

fn missing(name: &str, needed: impl Iterator<Item = PathBuf>, packed: &BTreeSet<PathBuf>) -> Vec<String> {
    needed
        .filter(|path| !packed.contains(path) && !packed.iter().any(|other| other.starts_with(path)))
        .map(|path| format!("{name}: `{}` is not in the package", path.display()))
        .collect()
}

/// The source file itself, and what its macros read at compile time, from the crate's folder.
fn included(path: &Path, text: &str) -> Vec<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new(""));
    ["include_str!(\"", "include_bytes!(\"", "include!(\""]
        .into_iter()
        .flat_map(|start| text.split(start).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .map(|target| resolve(&folder.join(target)))
        .chain([path.to_owned()])
        .collect()
}

/// The path without `..`; what leads out of the crate's folder keeps them and is in no package.
fn resolve(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut resolved, part| {
        if part != Component::ParentDir || !resolved.pop() {
            resolved.push(part);
        }
        resolved
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_source_includes_must_be_packed() {
        let text = "#![doc = include_str!(\"../README.md\")]\nconst A: &str = include_str!(\"../../compose.yaml\");\n\
                    const B: &[u8] = include_bytes!(\"sql/0001.sql\");";
        let needed = included(Path::new("src/lib.rs"), text);
        assert_eq!(needed, ["README.md", "../compose.yaml", "src/sql/0001.sql", "src/lib.rs"].map(PathBuf::from));
        let packed = BTreeSet::from(["README.md", "src/lib.rs", "src/sql/0001.sql"].map(PathBuf::from));
        assert_eq!(missing("a", needed.into_iter(), &packed), ["a: `../compose.yaml` is not in the package"]);
    }
}
