//! Real servers, started, killed, restarted and found again.

mod disk;
mod own;
mod shared;

use std::time::{Duration, Instant};

use dev_servers::{Kind, Servers};

/// Whether the server can be started here; where not, the reason is printed or, under
/// `MICRO_TEST_REQUIRE=1`, the test fails.
fn is_there(kind: Kind) -> bool {
    let Some(reason) = Servers::of_workspace().missing(kind) else { return true };
    let is_required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
    assert!(!is_required, "{kind} is missing and required: {reason}");
    eprintln!("skipped, {kind} is missing: {reason}");
    false
}

/// Polls until `state` holds; answers whether it did within a minute.
fn eventually(mut state: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if state() {
            return true;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    false
}
