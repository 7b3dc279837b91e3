//! Which way a request goes.

/// Which way a request goes, seen from this process.
///
/// A process that serves a call and makes the same one keeps the two apart by it, in spans and in
/// metrics. What is published goes out, what is consumed comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Somebody asks this process.
    In,
    /// This process asks somebody.
    Out,
}

impl Direction {
    /// The word in metrics and spans.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}
