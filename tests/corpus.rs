//! What fuzzing begins with is run by the stable compiler as well, each file whole and cut short.
#![cfg(all(
    feature = "broker-kafka",
    feature = "grpc",
    feature = "middleware",
    feature = "registry-consul",
    feature = "registry-etcd"
))]

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub)]
mod targets;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// At how many places a file is cut.
const CUT_COUNT: usize = 50;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_file_of_every_corpus_holds() {
    for (name, target) in targets::TARGETS {
        let corpus = folder("corpus").join(name);
        let files = names(&corpus);
        assert!(files.len() >= 3, "{name} has {} files", files.len());
        for file in files {
            // Read where a test that fails shows it.
            println!("{name}/{file}");
            let bytes = fs::read(corpus.join(&file)).unwrap();
            target(&bytes);
            for cut in (0..bytes.len()).step_by((bytes.len() / CUT_COUNT).max(1)) {
                target(&bytes[..cut]);
                target(&bytes[cut..]);
            }
        }
    }
}

#[test]
fn every_target_has_its_program_and_its_corpus() {
    let targets: BTreeSet<String> = targets::TARGETS.map(|(name, _)| name.to_owned()).into();
    assert_eq!(names(&folder("corpus")), targets);
    let programs = names(&folder("fuzz_targets"));
    assert_eq!(programs, targets.iter().map(|name| format!("{name}.rs")).collect());
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    for name in targets {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is no program of fuzz/Cargo.toml");
    }
}
