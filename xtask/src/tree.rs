//! The checkout as the rules see it: its files with their text, and what Cargo says of its crates.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cargo_metadata::{Metadata, MetadataCommand, Package};

/// Where services run; `deny.toml` has the same list.
pub(crate) const PLATFORMS: [&str; 3] = ["x86_64-unknown-linux-gnu", "aarch64-apple-darwin", "x86_64-pc-windows-msvc"];

/// The checkout.
pub(crate) struct Tree {
    /// Where the workspace's `Cargo.toml` is.
    pub(crate) root: PathBuf,
    /// Every text file that is tracked or would be, sorted by path.
    pub(crate) files: Vec<SourceFile>,
    /// What `cargo metadata` says.
    pub(crate) metadata: Metadata,
}

/// A text file of the checkout.
pub(crate) struct SourceFile {
    /// Its path from the root, with forward slashes.
    pub(crate) path: String,
    /// What it holds.
    pub(crate) text: String,
}

impl Tree {
    /// Reads the checkout that this crate stands in.
    pub(crate) fn load() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the folder of xtask stands in the workspace's root")
            .to_owned();
        let metadata = metadata(&root)?;
        let mut paths = tracked(&root).unwrap_or_else(|| walked(&root));
        paths.sort();
        paths.dedup();
        // What is not UTF-8 is no text, and what is tracked but deleted in the working copy is no file.
        let files = paths
            .into_iter()
            .filter_map(|path| fs::read_to_string(root.join(&path)).ok().map(|text| SourceFile { path, text }))
            .collect();
        Ok(Self { root, files, metadata })
    }

    /// The workspace's crates that go to a registry.
    pub(crate) fn published(&self) -> Vec<&Package> {
        let is_published = |package: &&Package| package.publish.as_ref().is_none_or(|places| !places.is_empty());
        self.metadata.workspace_packages().into_iter().filter(is_published).collect()
    }
}

fn metadata(root: &Path) -> Result<Metadata, String> {
    let command = |options: &[&str]| {
        MetadataCommand::new()
            .manifest_path(root.join("Cargo.toml"))
            .other_options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
            .exec()
    };
    // Everything that can be linked where services run, so that licences are judged on all of it; where the
    // other platforms' crates cannot be had (no network), the ones of this platform, which the build needs
    // anyway.
    let everywhere: Vec<&str> = PLATFORMS.iter().flat_map(|platform| ["--filter-platform", platform]).collect();
    command(&[&["--locked", "--all-features"], &everywhere[..]].concat())
        .or_else(|_| command(&["--locked", "--all-features", "--filter-platform", host()]))
        .map_err(|error| format!("cargo metadata: {error}\nif Cargo.lock is out of date: run `cargo check`, commit it"))
}

/// The platform this tool was built for, near enough for Cargo's filter.
fn host() -> &'static str {
    if cfg!(target_os = "macos") {
        "aarch64-apple-darwin"
    } else if cfg!(windows) {
        "x86_64-pc-windows-msvc"
    } else {
        "x86_64-unknown-linux-gnu"
    }
}

/// The files that git tracks or would track; `None` outside a repository or without git.
fn tracked(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let names = String::from_utf8(output.stdout).ok()?;
    Some(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// Every file below `root` but build output and git's own.
fn walked(root: &Path) -> Vec<String> {
    let mut folders = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if let Ok(inside) = path.strip_prefix(root)
                && path.is_file()
            {
                paths.push(inside.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_finds_what_git_tracks() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let walked = walked(root);
        for path in ["Cargo.toml", "xtask/src/tree.rs", ".cargo/config.toml"] {
            assert!(walked.iter().any(|known| known == path), "{path}");
        }
        assert!(!walked.iter().any(|path| path.starts_with("target/")));
    }
}
