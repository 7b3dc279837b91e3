//! What fuzzing begins with is run by the stable compiler as well, each file whole, cut short, and
//! changed in a few places.
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
/// How often a file is changed, unless `MICRO_TEST_CHANGES` says otherwise.
const CHANGE_COUNT: u64 = 200;

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
fn every_file_of_every_corpus_holds_changed_in_a_few_places() {
    let count = std::env::var("MICRO_TEST_CHANGES").map_or(CHANGE_COUNT, |count| count.parse().expect("a number"));
    for (name, target) in targets::TARGETS {
        let corpus = folder("corpus").join(name);
        for file in names(&corpus) {
            let bytes = fs::read(corpus.join(&file)).unwrap();
            for seed in 0..count {
                let changed = changed(bytes.clone(), seed);
                let outcome = std::panic::catch_unwind(|| target(&changed));
                assert!(outcome.is_ok(), "{name}/{file} changed by {seed}: {:?}", String::from_utf8_lossy(&changed));
            }
        }
    }
}

/// The same for the same seed.
fn changed(mut bytes: Vec<u8>, seed: u64) -> Vec<u8> {
    const TOKENS: [&[u8]; 10] =
        [b"null", b"{", b"}", b"[", b"\"", b"\\u0000", b"-1", b"99999999999999999999", b"\n", b"\xff"];
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..random.usize(1..=4) {
        let (place, end) = (random.usize(0..=bytes.len()), random.usize(0..=bytes.len()));
        match random.u8(0..5) {
            0 if place < bytes.len() => bytes[place] ^= 1 << random.u8(0..8),
            1 => drop(bytes.drain(place.min(end)..place.max(end).min(place.min(end) + 8))),
            2 => drop(bytes.splice(place..place, random.choice(TOKENS).unwrap_or_default().iter().copied())),
            3 => {
                let piece = bytes[place.min(end)..place.max(end)].to_vec();
                drop(bytes.splice(place..place, piece));
            }
            _ => bytes.insert(place, random.u8(..)),
        }
    }
    bytes
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
