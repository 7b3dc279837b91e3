//! The main job as a user runs it: the program, its last line, its exit code.

#[cfg(all(feature = "broker-kafka", feature = "registry-consul", feature = "tx-mysql", feature = "tx-postgres"))]
mod kill;
#[cfg(all(feature = "broker-kafka", feature = "registry-consul", feature = "tx-mysql", feature = "tx-postgres"))]
mod kill_wires;
#[cfg(all(feature = "broker-kafka", feature = "registry-consul", feature = "tx-mysql", feature = "tx-postgres"))]
mod outage;
#[cfg(all(feature = "broker-kafka", feature = "registry-consul", feature = "tx-mysql", feature = "tx-postgres"))]
mod servers;
#[cfg(all(feature = "broker-kafka", feature = "registry-consul", feature = "tx-mysql", feature = "tx-postgres"))]
mod stage;
mod verdict;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

fn payment_chain(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payment-chain"));
    command.args(arguments).arg("--json").stdin(Stdio::null());
    command
}

fn report_of(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| {
        panic!("the last line is no JSON ({error}): {text}\n{}", String::from_utf8_lossy(&output.stderr))
    })
}

fn run(arguments: &[&str]) -> (Value, bool) {
    let output = payment_chain(arguments).output().unwrap();
    let report = report_of(&output);
    (report, output.status.success())
}

#[track_caller]
fn assert_clean(report: &Value, is_success: bool) {
    for name in [
        "lost",
        "needless_refusals",
        "missing_transitions",
        "doubled",
        "ghosts",
        "out_of_order",
        "stock_mismatches",
        "left_over",
        "dead_letter_mismatches",
        "failed_callbacks",
    ] {
        assert_eq!(report[name], 0, "{name} in {report}");
    }
    assert!(is_success && report["clean"] == true, "{report}");
}

#[test]
fn ten_thousand_orders_with_duplicates_and_poison_are_clean() {
    let (report, is_success) = run(&["--orders", "10000", "--duplicate-percent", "5", "--poison-percent", "1"]);
    assert_clean(&report, is_success);
    assert_eq!(report["accepted"], 10_000);
    assert_eq!(report["paid"].as_u64().unwrap() + report["refused"].as_u64().unwrap(), 10_000);
    assert_eq!(report["poison"], 100);
    assert_eq!(report["dead_letters"], 100);
    assert!(report["callbacks"].as_u64().unwrap() > 10_000, "no callback was sent twice: {report}");
    assert!(report["duplicate_records"].as_u64().unwrap() > 500, "{report}");
}

#[test]
fn the_last_line_has_every_figure_by_its_name() {
    let (report, is_success) = run(&["--orders", "40", "--skus", "1", "--stock", "30", "--poison-percent", "10"]);
    assert_clean(&report, is_success);
    let count = |name: &str| report[name].as_i64().unwrap_or_else(|| panic!("{name} is no whole number in {report}"));
    let counts = ["orders", "accepted", "paid", "refused", "deducted_units", "stock_before", "stock_after", "poison"]
        .map(|name| (name, count(name)));
    assert_eq!(counts.map(|(_, count)| count), [40, 40, 30, 10, 30, 30, 0, 4], "{counts:?}: one SKU, a unit an order");
    assert_eq!(["lost", "doubled", "ghosts", "out_of_order", "dead_letters"].map(count), [0, 0, 0, 0, 4]);
    for name in [
        "seconds",
        "orders_per_second",
        "callback_p50_ms",
        "callback_p95_ms",
        "callback_p99_ms",
        "settled_p95_ms",
        "rss_mib",
    ] {
        assert!(report[name].as_f64().is_some_and(|value| value > 0.0), "{name} in {report}");
    }
    let quantiles = ["callback_p50_ms", "callback_p95_ms", "callback_p99_ms"].map(|name| report[name].as_f64());
    assert!(quantiles.is_sorted(), "{quantiles:?}");
}

/// The last lines of a run on every wire, a report each.
#[track_caller]
fn assert_every_wire_is_clean(arguments: &[&str]) -> Vec<Value> {
    let output = payment_chain(arguments).args(["--wire", "all"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(3)..];
    let reports: Vec<Value> = last.iter().map(|line| serde_json::from_str(line).expect(&text)).collect();
    for report in &reports {
        assert_clean(report, output.status.success());
        assert!(report["paid"].as_u64().unwrap() > 0 && report["refused"].as_u64().unwrap() > 0, "{report}");
        assert!(report["cpu_ms_per_order"].as_f64().unwrap() > 0.0, "{report}");
    }
    let wires: Vec<_> = reports.iter().map(|report| report["wire"].as_str().unwrap()).collect();
    assert_eq!(wires, ["grpc", "dtm", "events"]);
    assert!(text.contains("verdict: clean on every wire"), "{text}");
    for (wire, promise) in [
        ("grpc", "goods may stay deducted for an unpaid order until its callback is sent again"),
        ("dtm", "the saga goes on, or back: nothing is lost"),
        ("events", "the event waits in the outbox: nothing is lost"),
    ] {
        let is_row = |line: &&&str| line.trim_start().starts_with(wire) && line.matches(" ms").count() == 4;
        let row = lines.iter().find(is_row).unwrap_or_else(|| panic!("no row of {wire} in {text}"));
        assert!(row.ends_with(promise), "{row}");
    }
    reports
}

#[test]
fn one_core_settles_every_order_on_each_of_three_wires() {
    let reports = assert_every_wire_is_clean(&["--orders", "400", "--skus", "10", "--stock", "50"]);
    let poison: Vec<_> = reports.iter().map(|report| report["poison"].as_u64().unwrap()).collect();
    assert_eq!(poison, [0, 0, 4], "topics carry payments on one wire only");
}

#[test]
fn one_hundred_concurrent_callbacks_for_one_order_deduct_once() {
    let (report, is_success) = run(&[
        "--orders",
        "1",
        "--skus",
        "1",
        "--stock",
        "10",
        "--concurrency",
        "100",
        "--callbacks-per-order",
        "100",
        "--duplicate-percent",
        "0",
        "--poison-percent",
        "0",
    ]);
    assert_clean(&report, is_success);
    assert_eq!(report["callbacks"], 100);
    assert_eq!(report["paid"], 1);
    assert_eq!(report["deducted_units"], 1);
    assert_eq!(report["stock_after"], 9);
}

#[test]
fn two_hundred_orders_for_a_stock_of_fifty_end_as_fifty_paid_and_one_hundred_and_fifty_refused() {
    let (report, is_success) = run(&[
        "--orders",
        "200",
        "--skus",
        "1",
        "--stock",
        "50",
        "--concurrency",
        "200",
        "--duplicate-percent",
        "5",
        "--poison-percent",
        "1",
    ]);
    assert_clean(&report, is_success);
    assert_eq!(report["paid"], 50);
    assert_eq!(report["refused"], 150);
    assert_eq!(report["stock_after"], 0);
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().display());
    let arguments = ["--orders", "3000", "--duplicate-percent", "5", "--poison-percent", "1", "--database", &database];
    // Killed at three points of the run: hardly begun, in the middle, near the end.
    for acknowledged_min in [20, 1_000, 2_500] {
        let child = payment_chain(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        kill_once_acknowledged(child, &folder.path().join("callbacks.log"), acknowledged_min);
    }
    let (report, is_success) = run(&arguments);
    assert_clean(&report, is_success);
    assert_eq!(report["resumed"], true);
    assert_eq!(report["accepted"], 3_000);
}

fn kill_once_acknowledged(mut child: Child, log: &Path, acknowledged_min: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        // The first line is the seed.
        let acknowledged = std::fs::read_to_string(log).map_or(0, |text| text.lines().count().saturating_sub(1));
        if acknowledged >= acknowledged_min {
            break;
        }
        if let Some(status) = child.try_wait().unwrap() {
            panic!("ended by itself ({status}) after {acknowledged} acknowledged callbacks");
        }
        assert!(Instant::now() < deadline, "only {acknowledged} callbacks acknowledged");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn sigterm_under_load_completes_every_accepted_request() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().display());
    let arguments = ["--orders", "50000", "--poison-percent", "0", "--database", &database];
    let mut child = payment_chain(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).last());
    let log = folder.path().join("callbacks.log");
    let deadline = Instant::now() + Duration::from_secs(120);
    while std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 500 {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "the run ended before the signal");
        std::thread::yield_now();
    }
    let told = Instant::now();
    let signalled = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    let status = child.wait().unwrap();
    assert!(told.elapsed() < Duration::from_secs(120), "took {:?} to stop", told.elapsed());
    let report: Value = serde_json::from_str(&reader.join().unwrap().unwrap()).unwrap();
    assert_clean(&report, status.success());
    let accepted = report["accepted"].as_u64().unwrap();
    assert!((500..50_000).contains(&accepted), "{report}");
    assert_eq!(report["paid"].as_u64().unwrap() + report["refused"].as_u64().unwrap(), accepted, "{report}");
}

#[test]
fn a_folder_seeded_with_other_numbers_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().display());
    let (report, is_success) = run(&["--orders", "20", "--database", &database]);
    assert_clean(&report, is_success);
    let output = payment_chain(&["--orders", "21", "--database", &database]).output().unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("seeded with other numbers"), "{stderr}");
}

#[test]
fn a_backend_that_is_not_there_is_named() {
    for (option, url) in [("--broker", "amqp://127.0.0.1:5672"), ("--registry", "eureka://127.0.0.1:8761")] {
        let output = payment_chain(&["--orders", "1", option, url]).output().unwrap();
        assert!(!output.status.success());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(url.split(':').next().unwrap()), "{stderr}");
    }
}

#[test]
fn a_secret_in_a_url_is_never_shown() {
    for (option, url) in [
        ("--database", "mysql://app:canary-7f3a@127.0.0.1/x"),
        ("--database", "app:canary-7f3a@tcp(127.0.0.1:3306)/x"),
        ("--database", "host=127.0.0.1 password=canary-7f3a"),
        ("--database", "password=canary-7f3a host=127.0.0.1:5432"),
        ("--registry", "consul://:canary-7f3a@127.0.0.1:8500"),
        ("--registry", "static:app:canary-7f3a@127.0.0.1"),
        ("--registry", "static:order=app:canary-7f3a@127.0.0.1:1"),
        ("--broker", "kafka://app:canary-7f3a@127.0.0.1:9092"),
        ("--broker", "canary-7f3a"),
    ] {
        let output = payment_chain(&["--orders", "1", option, url]).env("RUST_LOG", "trace").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{option} {url}");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains("canary-7f3a"), "{option} {url} shows the secret: {text}");
        let said: Vec<&str> = text.lines().filter(|line| line.starts_with("payment-chain: ")).collect();
        assert_eq!(said.len(), 1, "one line says what is wrong: {text}");
    }
}

#[test]
fn arguments_that_cannot_be_are_refused_with_what_was_expected() {
    for (arguments, expected) in [
        (["--orders", "0"], "1..=10000000"),
        (["--concurrency", "none"], "invalid digit"),
        (["--poison-percent", "101"], "expected a number from 0 to 100"),
        (["--duplicate-percent", "NaN"], "expected a number from 0 to 100"),
        (["--database", "sqlite:"], "expected sqlite:FOLDER"),
        (["--database", "mysql://127.0.0.1/a;b"], "lower-case letters, digits and _"),
        (["--operations", "/proc/no/such/folder"], "the folder cannot be made"),
        (["--database", "sqlite:/proc/no/such/folder"], "the folder cannot be made"),
        (["--broker", "memory"], "not a URL"),
    ] {
        let output = payment_chain(&arguments).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}
