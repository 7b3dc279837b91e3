//! Compiles protos to a temporary folder: the code it gives, its use, and the text of each refusal.

mod events;
mod refusals;

use std::path::PathBuf;

use tempfile::TempDir;

/// Compiles one proto text and returns what was written, or the refusal.
fn compile(proto: &str) -> Result<TempDir, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.proto");
    std::fs::write(&path, proto).unwrap();
    let builder = micro_build::Builder::new().out_dir(folder.path());
    builder.compile(&[path]).map(|()| folder).map_err(|error| error.to_string())
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(name)
}
