//! W3C trace context: which trace a request belongs to, as it travels in `traceparent`.

use std::fmt;

use crate::{Error, ErrorKind, Result};

/// The trace a request belongs to, and the span that is its parent there.
///
/// It travels as text: in the `traceparent` header of a call and in the [`TRACEPARENT`] header of
/// a message. Inside a process it travels in [`Metadata`](crate::Metadata) under
/// [`METADATA_NAME`](Self::METADATA_NAME), for nothing hides in globals or task-locals: what makes
/// a call or records an event copies it from the metadata it was given.
///
/// Source: <https://www.w3.org/TR/trace-context/>, level 1.
///
/// [`TRACEPARENT`]: crate::broker::header::TRACEPARENT
///
/// # Examples
///
/// ```
/// use micro_core::TraceContext;
///
/// let parent: TraceContext = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse()?;
/// let child = parent.child();
/// assert_eq!(child.trace_id(), parent.trace_id());
/// assert_ne!(child.span_id(), parent.span_id());
/// assert!(child.is_sampled());
/// # Ok::<(), micro_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

const FLAG_SAMPLED: u8 = 0b01;
/// `00-` trace id `-` span id `-` flags.
const LENGTH: usize = 55;

impl TraceContext {
    /// The name of the header and of the [`Metadata`](crate::Metadata) entry.
    pub const METADATA_NAME: &'static str = "traceparent";

    /// A new trace with a new first span.
    pub fn new(is_sampled: bool) -> Self {
        Self { trace_id: fastrand::u128(1..), span_id: fastrand::u64(1..), flags: u8::from(is_sampled) }
    }

    /// A new span of the same trace, sampled as its parent is.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span_id: fastrand::u64(1..), ..*self }
    }

    /// The trace, never 0.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The span, never 0.
    pub fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Whether the caller records this trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & FLAG_SAMPLED != 0
    }
}

/// Writes `00-…`; of the flags only those that level 1 knows.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand, for a call writes two: the formatter's hexadecimal costs several times as much.
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..35], self.trace_id);
        write_hex(&mut text[36..52], u128::from(self.span_id));
        write_hex(&mut text[53..55], u128::from(self.flags & FLAG_SAMPLED));
        f.write_str(str::from_utf8(&text).expect("digits and dashes are text"))
    }
}

fn write_hex(digits: &mut [u8], mut number: u128) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xf) as usize];
        number >>= 4;
    }
}

/// Reads a `traceparent`.
///
/// # Errors
///
/// `InvalidArgument` where the specification says that the value must be ignored: a wrong length,
/// an upper-case or missing digit, version `ff`, a trace id or span id of zeros.
impl std::str::FromStr for TraceContext {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text.as_bytes()).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                "trace.parse",
                "not a traceparent, expected 00-<32 hex>-<16 hex>-<2 hex>",
            )
            .with_context("byte_count", text.len())
        })
    }
}

fn parse(text: &[u8]) -> Option<TraceContext> {
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let version = hex(&known[0..2])?;
    // A later version may add fields after another dash; version 0 must end here.
    let has_valid_end = rest.is_empty() || (version != 0 && rest[0] == b'-');
    let has_dashes = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
    if version == 0xff || !has_valid_end || !has_dashes {
        return None;
    }
    let trace_id = u128::from(hex(&known[3..19])?) << 64 | u128::from(hex(&known[19..35])?);
    let (span_id, flags) = (hex(&known[36..52])?, hex(&known[53..55])?);
    if trace_id == 0 || span_id == 0 {
        return None;
    }
    Some(TraceContext { trace_id, span_id, flags: u8::try_from(flags).expect("2 digits fit") })
}

/// Lower-case hexadecimal digits only, at most 16 of them.
fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Some(number << 4 | u64::from(digit - b'0')),
        b'a'..=b'f' => Some(number << 4 | u64::from(digit - b'a' + 10)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(VALID.parse::<TraceContext>().unwrap().to_string(), VALID);
        for is_sampled in [true, false] {
            let context = TraceContext::new(is_sampled);
            assert_eq!(context.to_string().parse::<TraceContext>().unwrap(), context);
            assert_eq!(context.child().is_sampled(), is_sampled);
        }
    }

    #[test]
    fn malformed_values_are_refused() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.extra",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-01",
        ] {
            assert_eq!(text.parse::<TraceContext>().unwrap_err().kind(), ErrorKind::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let context: TraceContext =
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-09-what-the-future-brings".parse().unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), VALID);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
            let _ = text.parse::<TraceContext>();
        }
    }
}
