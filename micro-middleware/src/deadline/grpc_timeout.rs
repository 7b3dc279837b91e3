//! The header `grpc-timeout`: one to eight digits and a unit.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use micro_core::{Error, ErrorKind, Result};

use super::GRPC_TIMEOUT;

const VALUE_MAX: u128 = 99_999_999;

/// Sees to it that the header says no more than `limit`; one that is malformed stays, for the
/// deadline layer to refuse.
pub fn limit(headers: &mut HeaderMap, limit: Duration) {
    match read(headers) {
        Ok(Some(timeout)) if timeout <= limit => {}
        Ok(_) => write(headers, limit),
        Err(_) => {}
    }
}

/// Reads the header; `None` where it is missing.
///
/// # Errors
///
/// `Internal` for a value that is not a timeout, as grpc-go's server answers it: the sender's
/// library is broken, and a guess would make its callers wait.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Timeout".
pub fn read(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(value) = headers.get(&GRPC_TIMEOUT) else { return Ok(None) };
    parse(value.as_bytes()).map(Some).ok_or_else(|| {
        Error::new(ErrorKind::Internal, "deadline", "malformed grpc-timeout, expected 1 to 8 digits and one of HMSmun")
    })
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Writes the header in the finest unit whose eight digits hold it, rounded down: a callee may
/// give up early, not late.
pub(crate) fn write(headers: &mut HeaderMap, timeout: Duration) {
    headers.insert(&GRPC_TIMEOUT, format(timeout));
}

fn format(timeout: Duration) -> HeaderValue {
    let units = [
        (timeout.as_nanos(), b'n'),
        (timeout.as_micros(), b'u'),
        (timeout.as_millis(), b'm'),
        (u128::from(timeout.as_secs()), b'S'),
        (u128::from(timeout.as_secs() / 60), b'M'),
        (u128::from(timeout.as_secs() / 3600), b'H'),
    ];
    let fitting = units.into_iter().find(|(number, _)| *number <= VALUE_MAX);
    let (number, unit) = fitting.unwrap_or((VALUE_MAX, b'H'));
    // By hand, for every call writes one.
    let mut rest = u32::try_from(number).expect("eight digits fit");
    let mut text = [b'0', b'0', b'0', b'0', b'0', b'0', b'0', b'0', unit];
    let mut first = text.len() - 1;
    while rest > 0 || first == text.len() - 1 {
        first -= 1;
        text[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    HeaderValue::from_bytes(&text[first..]).expect("digits and a letter are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        for (text, timeout) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("7n", Duration::from_nanos(7)),
            ("00000001S", Duration::from_secs(1)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(timeout), "{text}");
        }
    }

    #[test]
    fn a_limit_only_makes_a_timeout_shorter() {
        for (before, limit_ms, after) in [
            (None, 20, "20000000n"),
            (Some("3S"), 20, "20000000n"),
            (Some("10m"), 20, "10m"),
            (Some("soon"), 20, "soon"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(before) = before {
                headers.insert(&GRPC_TIMEOUT, HeaderValue::from_static(before));
            }
            limit(&mut headers, Duration::from_millis(limit_ms));
            assert_eq!(headers[&GRPC_TIMEOUT], after, "{before:?}");
        }
    }

    #[test]
    fn malformed_values_are_refused() {
        for text in ["", "S", "1", "1s", "1 S", "-1S", "+1S", "1.5S", "123456789n", "1SS", "é"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_never_longer() {
        for timeout in [
            Duration::ZERO,
            Duration::from_nanos(99_999_999),
            Duration::from_nanos(100_000_001),
            Duration::from_secs(2),
            Duration::from_secs(100_000),
            Duration::from_secs(99_999_999 * 3600),
            Duration::MAX,
        ] {
            let read = parse(format(timeout).as_bytes()).unwrap();
            assert!(
                read <= timeout && (timeout.as_secs() > 99_999_999 * 60 || timeout - read < Duration::from_secs(60))
            );
        }
    }
}
