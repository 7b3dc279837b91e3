//! Deadlines on the wire: the `grpc-timeout` header, read and written.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The time a caller gives, `None` where it gives none or writes what gRPC does not know.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>: at most eight digits
/// and a unit.
pub(crate) fn read_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Rounded down to the finest unit that eight digits can hold: a callee must not believe that it
/// has more time than its caller will wait.
pub(crate) fn write_timeout(timeout: Duration) -> HeaderValue {
    const EIGHT_DIGITS: u128 = 99_999_999;
    let units = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (u128::from(timeout.as_secs()), 'S'),
    ];
    let (count, unit) = units.into_iter().find(|(count, _)| *count <= EIGHT_DIGITS).unwrap_or((EIGHT_DIGITS, 'S'));
    HeaderValue::try_from(format!("{count}{unit}")).expect("digits and a letter are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_str(text).unwrap());
        read_timeout(&headers)
    }

    #[test]
    fn every_unit_is_read() {
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("4m"), Some(Duration::from_millis(4)));
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
    }

    #[test]
    fn what_grpc_does_not_know_is_no_timeout() {
        for text in ["", "S", "1", "1s", "123456789S", "-1S", "+1S", "1.5S", "1 S"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_never_longer() {
        for nanos in [0, 1, 99_999_999, 100_000_001, 1_999_999_999, 86_400_000_000_123, u64::MAX] {
            let timeout = Duration::from_nanos(nanos);
            let read = read(write_timeout(timeout).to_str().unwrap()).unwrap();
            assert!(read <= timeout, "{read:?} > {timeout:?}");
            assert!(timeout - read < Duration::from_secs(1).max(timeout / 10), "{read:?} of {timeout:?}");
        }
    }
}
