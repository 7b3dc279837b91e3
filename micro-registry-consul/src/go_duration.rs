//! Durations as Go prints them, `1m5s`: what its programs write and Consul reads.

use std::{fmt::Write as _, time::Duration};

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// The duration as Go's `Duration.String` has it: hours, minutes and seconds with their fraction, or
/// below a second milliseconds, microseconds, nanoseconds with theirs.
pub(crate) fn go_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if seconds > 0 {
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        let mut text = String::new();
        if hours > 0 {
            write!(text, "{hours}h").expect("a string takes any text");
        }
        if seconds >= 60 {
            write!(text, "{minutes}m").expect("a string takes any text");
        }
        return format!("{text}{}s", with_fraction(seconds % 60, nanos, NANOS_PER_SECOND));
    }
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", with_fraction(u64::from(nanos / 1_000), nanos % 1_000, 1_000)),
        _ => format!("{}ms", with_fraction(u64::from(nanos / 1_000_000), nanos % 1_000_000, 1_000_000)),
    }
}

/// `whole` and `part` of `of` (a power of ten), without zeros at the end.
fn with_fraction(whole: u64, part: u32, of: u32) -> String {
    if part == 0 {
        return whole.to_string();
    }
    let digits = of.ilog10() as usize;
    format!("{whole}.{}", format!("{part:0digits$}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go 1.26 printed.
    #[test]
    fn a_duration_is_printed_as_go_prints_it() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (500_000_000, "500ms"),
            (999_999_999, "999.999999ms"),
            (1_000_000_000, "1s"),
            (1_500_000_000, "1.5s"),
            (3_300_000_001, "3.300000001s"),
            (10_000_000_000, "10s"),
            (60_000_000_000, "1m0s"),
            (65_000_000_000, "1m5s"),
            (245_100_000_000, "4m5.1s"),
            (3_600_000_000_000, "1h0m0s"),
            (36_001_000_000_000, "10h0m1s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
        }
    }
}
