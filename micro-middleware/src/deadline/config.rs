//! The limits of the deadline layers.

use std::time::Duration;

/// How long a served call may take where its caller does not say less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadlineConfig {
    /// The limit of a call that came without `grpc-timeout`; default 5 s.
    pub default: Duration,
    /// The limit of a call whose caller would wait longer; default 30 s.
    pub max: Duration,
}

impl Default for DeadlineConfig {
    fn default() -> Self {
        Self { default: Duration::from_secs(5), max: Duration::from_secs(30) }
    }
}

impl DeadlineConfig {
    /// Sets the limit of a call that came without `grpc-timeout`.
    #[must_use]
    pub fn with_default(mut self, default: Duration) -> Self {
        self.default = default;
        self
    }

    /// Sets the limit of a call whose caller would wait longer.
    #[must_use]
    pub fn with_max(mut self, max: Duration) -> Self {
        self.max = max;
        self
    }
}
