//! Programs in Go that tests talk to: built from sources of the checkout, again when those change.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Servers,
    install::{self, find, lock},
};

/// The program of `interop/go-peer`, which is go-micro v4 as a service and as a client: the first
/// caller builds it, the others wait, and it is built again when its sources change.
///
/// Its first build takes a minute or two and fetches Go modules of exact versions.
///
/// # Errors
///
/// A text that says what is missing where it cannot be built, or what the Go toolchain said.
pub fn go_peer() -> Result<PathBuf, String> {
    interop("go-peer")
}

/// The program of `interop/go-chain`, the order and the product service on go-micro v4; as
/// [`go_peer`].
///
/// # Errors
///
/// As [`go_peer`].
pub fn go_chain() -> Result<PathBuf, String> {
    interop("go-chain")
}

fn interop(name: &str) -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let sources = root.expect("this crate's folder stands in the workspace's root").join("interop").join(name);
    build(&sources, ".", &Servers::of_workspace().tools().join(name))
}

/// The program of `interop/go-zero`, which is go-zero's own discovery on etcd; built as [`go_peer`] is.
///
/// # Errors
///
/// As [`go_peer`].
pub fn go_zero() -> Result<PathBuf, String> {
    interop("go-zero")
}

/// The program of `interop/go-dtm`, which is DTM's own client for Go; built as [`go_peer`] is.
///
/// # Errors
///
/// As [`go_peer`].
pub fn go_dtm() -> Result<PathBuf, String> {
    interop("go-dtm")
}

/// The program `grpcurl`, which calls a gRPC server by what reflection tells of it; built as
/// [`go_peer`] is.
///
/// # Errors
///
/// As [`go_peer`].
pub fn grpcurl() -> Result<PathBuf, String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("grpcurl");
    let package = "github.com/fullstorydev/grpcurl/cmd/grpcurl";
    build(&sources, package, &Servers::of_workspace().tools().join("grpcurl"))
}

/// Builds `package` of the module in `sources`; its go.mod and go.sum say all versions.
fn build(sources: &Path, package: &str, place: &Path) -> Result<PathBuf, String> {
    let recipe = recipe(sources)?;
    let go = go().ok_or_else(|| {
        format!("go is not installed: {} is built from source, see https://go.dev/doc/install", sources.display())
    })?;
    // The lock stands beside what an outdated build is removed with.
    let folder = place.join("built");
    let _held = lock(place)?;
    let program = folder.join("program");
    install::once(&folder, &recipe, || {
        install::run(
            Command::new(go)
                .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o"])
                .arg(&program)
                .arg(package)
                .env("CGO_ENABLED", "0")
                .current_dir(sources),
        )
    })?;
    Ok(program)
}

/// Go as the shell finds it, or where its installer puts it.
pub(crate) fn go() -> Option<PathBuf> {
    find("go").or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|path| path.is_file()))
}

/// The text of every source, in the order of their names.
fn recipe(folder: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read ({error})", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    let mut text = String::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        text += &format!("== {name}\n");
        text += &if path.is_dir() { recipe(&path)? } else { fs::read_to_string(&path).map_err(unreadable)? };
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_built_once_and_again_when_a_source_changes() {
        if go().is_none() {
            assert!(std::env::var("MICRO_TEST_REQUIRE").is_err(), "go is missing and required");
            eprintln!("skipped, go is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (sources, place) = (folder.path().join("sources"), folder.path().join("place"));
        fs::create_dir(&sources).unwrap();
        fs::write(sources.join("go.mod"), "module says\n\ngo 1.21\n").unwrap();
        let says = |text: &str| {
            let source = format!("package main\n\nfunc main() {{ print(\"{text}\") }}\n");
            fs::write(sources.join("main.go"), source).unwrap();
            let program = build(&sources, ".", &place)?;
            let modified = fs::metadata(&program).unwrap().modified().unwrap();
            let output = Command::new(program).output().unwrap();
            Ok((String::from_utf8(output.stderr).unwrap(), modified))
        };
        let first: Result<_, String> = says("one");
        assert_eq!(first.as_ref().unwrap().0, "one");
        assert_eq!(says("one"), first);
        assert_eq!(says("two").unwrap().0, "two");
        assert!(says("\"").unwrap_err().contains("main.go"), "what Go says is told");
    }

    #[test]
    fn sources_that_are_not_there_are_named() {
        let error = build(Path::new("/no/such/folder"), ".", Path::new("/no/such/place")).unwrap_err();
        assert!(error.starts_with("/no/such/folder cannot be read"), "{error}");
    }
}
