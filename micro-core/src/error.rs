//! The one error of every port: kind, operation, context, source, and whether to try again.

use std::{borrow::Cow, error::Error as StdError, fmt};

/// The result of every port.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, in the vocabulary of gRPC's status codes.
///
/// Source: <https://grpc.io/docs/guides/status-codes/>. One vocabulary serves RPC, events and
/// transactions, so that retry, breaker, dead letter and wire status ask the same question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller gave up before the operation ended.
    Cancelled,
    /// No better kind is known.
    Unknown,
    /// The input is wrong whatever the state of the system.
    InvalidArgument,
    /// The deadline passed first; the effect is unknown.
    DeadlineExceeded,
    /// What was asked for does not exist (perhaps: not yet).
    NotFound,
    /// What should be created exists already.
    AlreadyExists,
    /// The caller is known and may not do this.
    PermissionDenied,
    /// A quota, queue or size limit is reached.
    ResourceExhausted,
    /// The system is not in the state the operation needs.
    FailedPrecondition,
    /// A concurrent transaction won: deadlock, serialization failure, lock timeout.
    Aborted,
    /// Past the end of a valid range.
    OutOfRange,
    /// Not offered here.
    Unimplemented,
    /// An invariant is broken, or a handler panicked.
    Internal,
    /// The backend cannot be reached now.
    Unavailable,
    /// Bytes that cannot be read back: undecodable or corrupted.
    DataLoss,
    /// The caller is not known.
    Unauthenticated,
}

impl ErrorKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 16] = [
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The kind in snake case, as it stands in logs, metrics and dead letters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data_loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }

    /// The number of gRPC's status code, 1 to 16; 0 stands for success and is no kind.
    pub const fn code(self) -> u8 {
        // The variants stand in the order of gRPC's codes.
        self as u8 + 1
    }

    /// The kind of a gRPC status code; `None` for 0 (success), `Unknown` for a code gRPC does not
    /// have, as its clients read it.
    pub fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => None,
            code => Some(Self::ALL.get(code as usize - 1).copied().unwrap_or(Self::Unknown)),
        }
    }

    /// Whether the same call can succeed at once or soon, with nothing changed by its caller.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Aborted | Self::ResourceExhausted | Self::DeadlineExceeded)
    }

    /// Whether trying an event's handler again is pointless, so that it becomes a dead letter.
    ///
    /// `NotFound` is not among them: what an event speaks of may become visible later.
    pub const fn is_permanent(self) -> bool {
        matches!(
            self,
            Self::InvalidArgument
                | Self::AlreadyExists
                | Self::PermissionDenied
                | Self::FailedPrecondition
                | Self::OutOfRange
                | Self::Unauthenticated
                | Self::Unimplemented
                | Self::DataLoss
        )
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What every port returns when it fails.
///
/// `Display` is one line, `operation: message (key=value, …)`; the cause is in `source()` and not
/// repeated. Secrets never go into the message or the context: whoever makes an error redacts.
///
/// # Examples
///
/// ```
/// use micro_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::NotFound, "orders.find", "no order has this code")
///     .with_context("order_code", "A-17");
/// assert_eq!(error.to_string(), "orders.find: no order has this code (order_code=A-17)");
/// assert!(!error.is_retryable());
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: Cow<'static, str>,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    source: Option<BoxError>,
}

impl Error {
    /// An error of `kind` in `operation` (`"broker.publish"`); the message is lowercase, without a
    /// full stop, and says what was wrong and what was expected.
    pub fn new(
        kind: ErrorKind,
        operation: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            operation: operation.into(),
            message: message.into(),
            context: Vec::new(),
            source: None,
        }))
    }

    /// Adds a fact that helps to find the cause: an id, an address, a limit. Never a secret.
    #[must_use]
    pub fn with_context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Where it went wrong, `port.method` or `context.use_case`.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// The message alone, without operation and context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The facts added by [`with_context`](Self::with_context), in the order they were added.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// Whether the same call can succeed at once or soon: [`ErrorKind::is_retryable`].
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }

    /// Whether trying again is pointless: [`ErrorKind::is_permanent`].
    pub fn is_permanent(&self) -> bool {
        self.0.kind.is_permanent()
    }

    /// The error and its causes in one line, `a: b: c`, for logs and dead letters.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.message)?;
        for (index, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.kind)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source:?}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_every_cause_once() {
        let error = Error::new(ErrorKind::Unavailable, "registry.watch", "no agent answers")
            .with_context("address", "127.0.0.1:8500")
            .with_source(std::io::Error::other("connection refused"));
        assert_eq!(error.report(), "registry.watch: no agent answers (address=127.0.0.1:8500): connection refused");
    }

    #[test]
    fn codes_are_those_of_grpc() {
        assert_eq!(ErrorKind::Cancelled.code(), 1);
        assert_eq!(ErrorKind::Internal.code(), 13);
        assert_eq!(ErrorKind::Unauthenticated.code(), 16);
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code().into()), Some(kind));
        }
        assert_eq!(ErrorKind::from_code(0), None);
        assert_eq!(ErrorKind::from_code(17), Some(ErrorKind::Unknown));
    }

    #[test]
    fn no_kind_is_both_retryable_and_permanent() {
        for kind in ErrorKind::ALL {
            assert!(!(kind.is_retryable() && kind.is_permanent()), "{kind}");
        }
    }
}
