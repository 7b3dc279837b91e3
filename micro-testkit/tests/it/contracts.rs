//! Holds the suites against the contracts in the ports' docs: a promise is a test of its name.

use std::collections::BTreeSet;

/// A test that a port's promises, its suite's functions and its macro's list are the same names.
macro_rules! keeps_its_contract {
    ($($test:ident: $port:literal, $suite:literal;)+) => {
        $(
            #[test]
            fn $test() {
                let (port, suite) = (include_str!($port), include_str!($suite));
                assert!(!promised(port).is_empty(), "no contract in {}", $port);
                assert_eq!(tested(suite), promised(port), "functions of {}", $suite);
                assert_eq!(listed(suite), promised(port), "macro of {}", $suite);
            }
        )+
    };
}

keeps_its_contract! {
    broker: "../../../micro-core/src/broker/mod.rs", "../../src/broker/mod.rs";
    registry: "../../../micro-core/src/registry/mod.rs", "../../src/registry/mod.rs";
    codec: "../../../micro-core/src/codec.rs", "../../src/codec.rs";
    selector: "../../../micro-core/src/selector.rs", "../../src/selector.rs";
    transaction: "../../../micro-core/src/transaction/mod.rs", "../../src/transaction/mod.rs";
    outbox: "../../../micro-core/src/outbox/mod.rs", "../../src/outbox/mod.rs";
    inbox: "../../../micro-core/src/inbox/mod.rs", "../../src/inbox/mod.rs";
    barrier: "../../../micro-core/src/barrier/mod.rs", "../../src/barrier/mod.rs";
    parked: "../../../micro-core/src/parked/mod.rs", "../../src/parked/mod.rs";
}

/// The names that begin the bullets of every `# Contract` in a port's source.
fn promised(source: &str) -> BTreeSet<&str> {
    let mut is_contract = false;
    let mut names = BTreeSet::new();
    for line in source.lines() {
        match line.trim_start().strip_prefix("///").map(str::trim) {
            Some(text) if text.starts_with('#') => is_contract = text == "# Contract",
            Some(text) if is_contract => {
                let name = text.strip_prefix("- `").and_then(|text| text.split_once('`'));
                names.extend(name.map(|(name, _)| name));
            }
            Some(_) => {}
            None => is_contract = false,
        }
    }
    names
}

/// The public functions of a suite's source, but for generic helpers.
fn tested(source: &str) -> BTreeSet<&str> {
    source
        .lines()
        .filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('('))
        .map(|(name, _)| name)
        .filter(|name| !name.contains('<'))
        .collect()
}

/// The names a suite's macro lists.
fn listed(source: &str) -> BTreeSet<&str> {
    let lists = source
        .split("$fixture;")
        .flat_map(|part| part.split("$fixture,"))
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap_or_default());
    lists.flat_map(str::split_whitespace).filter(|word| !word.starts_with('$')).collect()
}
