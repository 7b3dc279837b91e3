//! Durations in settings' files: whole milliseconds.
//!
//! For serde's `with`. A part of a millisecond is left out.
//!
//! ```
//! # use std::time::Duration;
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Settings {
//!     #[serde(rename = "request_timeout_ms", with = "micro_core::millis")]
//!     request_timeout: Duration,
//! }
//!
//! let settings: Settings = serde_json::from_str(r#"{"request_timeout_ms":1500}"#).unwrap();
//! assert_eq!(settings.request_timeout, Duration::from_millis(1500));
//! assert_eq!(serde_json::to_string(&settings).unwrap(), r#"{"request_timeout_ms":1500}"#);
//! ```

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// Writes the whole milliseconds; more than `u64` holds is written as its most.
///
/// # Errors
///
/// Those of `serializer`.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Reads whole milliseconds.
///
/// # Errors
///
/// Those of `deserializer`, also for what is no number, below zero or no whole one.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}
