//! The one table from librdkafka's errors to [`ErrorKind`].

use micro_core::{Error, ErrorKind};
use rdkafka::{error::KafkaError, types::RDKafkaErrorCode as Code};

/// A driver's error as the port's. Its cause is librdkafka's own text for the code; texts that
/// repeat a setting, which may be a secret, are left out.
pub(crate) fn from_kafka(operation: &'static str, error: KafkaError) -> Error {
    let (kind, message) = match &error {
        KafkaError::ClientConfig(_, _, property, _) => {
            let message = "librdkafka does not take this property, or not with this value";
            return Error::new(ErrorKind::InvalidArgument, operation, message).with_context("property", property);
        }
        // It reads the files when a client is made, and says which one it could not take.
        KafkaError::ClientCreation(reason) if reason.starts_with("ssl.") => (
            ErrorKind::InvalidArgument,
            "the files of TLS cannot be taken: check that tls_ca_file, tls_certificate_file and tls_key_file are PEM \
             files that this process may read, and tls_key_password",
        ),
        KafkaError::ClientCreation(_) => (ErrorKind::InvalidArgument, "librdkafka does not take these settings"),
        KafkaError::Nul(_) => (ErrorKind::InvalidArgument, "a name holds a NUL byte"),
        KafkaError::Canceled => (ErrorKind::Unavailable, "the client was closed"),
        // These carry a text and no code; they come from calls that fail when the client is closing
        // or the partition is no longer this member's.
        KafkaError::Subscription(_) | KafkaError::Seek(_) | KafkaError::PauseResume(_) => {
            (ErrorKind::Unavailable, "the client refused the call")
        }
        error => error.rdkafka_error_code().map_or((ErrorKind::Unknown, "librdkafka failed"), classify),
    };
    Error::new(kind, operation, message).with_source(error)
}

/// The kind of a code and what it means to whoever reads it.
///
/// Only what is the message's own fault is `InvalidArgument`, for a relay sets such a row aside.
pub(crate) fn classify(code: Code) -> (ErrorKind, &'static str) {
    match code {
        // The message's own fault.
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            (ErrorKind::InvalidArgument, "the message is larger than the broker takes")
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition => {
            (ErrorKind::InvalidArgument, "there is no such topic; topics are created beforehand")
        }
        Code::UnknownPartition => (ErrorKind::InvalidArgument, "the topic has no such partition"),
        Code::InvalidTopic => (ErrorKind::InvalidArgument, "this is no name of a topic"),
        Code::InvalidMessage | Code::InvalidTimestamp => {
            (ErrorKind::InvalidArgument, "the broker does not take such a message")
        }
        Code::InvalidRecord => (
            ErrorKind::InvalidArgument,
            "the broker does not take such a message; a topic that is compacted takes none without a key",
        ),
        Code::InvalidArgument
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidReplicaAssignment
        | Code::InvalidConfig
        | Code::InvalidGroupId
        | Code::InvalidSessionTimeout
        | Code::InvalidRequest
        | Code::OffsetMetadataTooLarge => (ErrorKind::InvalidArgument, "a value of the request is out of its bounds"),
        // Who one is, and what one may do.
        Code::Authentication | Code::SaslAuthenticationFailed | Code::DelegationTokenExpired => {
            (ErrorKind::Unauthenticated, "the broker does not accept the credentials")
        }
        Code::UnsupportedSASLMechanism | Code::IllegalSASLState => {
            (ErrorKind::Unauthenticated, "the broker does not offer this SASL mechanism")
        }
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::DelegationTokenAuthorizationFailed => {
            (ErrorKind::PermissionDenied, "the broker does not allow this client to do so")
        }
        Code::PolicyViolation => (ErrorKind::PermissionDenied, "a policy of the broker forbids it"),
        // Limits.
        Code::QueueFull => (
            ErrorKind::ResourceExhausted,
            "the producer's queue is full of messages that wait for their receipts (queue_count_max, queue_bytes_max)",
        ),
        Code::KafkaStorageError | Code::LogDirNotFound | Code::CriticalSystemResource => {
            (ErrorKind::Unavailable, "the broker cannot write to its disk")
        }
        // Time.
        Code::MessageTimedOut | Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue => {
            (ErrorKind::DeadlineExceeded, "the broker did not answer in time")
        }
        // The cluster, now.
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::NetworkException
        | Code::BrokerNotAvailable
        | Code::UnknownBroker => (ErrorKind::Unavailable, "no broker can be reached"),
        // The broker may be given another certificate at any time: no fault of a message.
        Code::SSL => (
            ErrorKind::Unavailable,
            "no TLS with the broker: check tls_ca_file, that the broker's certificate is for this host, and the \
             client's own certificate where the broker asks for one",
        ),
        Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::ReplicaNotAvailable
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::ISRInsufficient
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::NotController => (ErrorKind::Unavailable, "the partition has no leader that can write now"),
        Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::WaitingForCoordinator => (ErrorKind::Unavailable, "the group has no coordinator now"),
        Code::InvalidDifferentRecord => (ErrorKind::Unavailable, "the broker refused another message of the batch"),
        // The producer's session: a new producer answers it.
        Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::InvalidProducerEpoch
        | Code::UnknownProducerId
        | Code::InvalidProducerIdMapping
        | Code::GaplessGuarantee
        | Code::Fatal => (ErrorKind::Unavailable, "the producer's session ended; a new one begins"),
        Code::PurgeQueue | Code::PurgeInflight | Code::BrokerDestroy | Code::DestroyBroker => {
            (ErrorKind::Unavailable, "the producer was closed before the message was acknowledged")
        }
        // The group.
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::RebalanceInProgress
        | Code::AssignmentLost
        | Code::NoOffset
        | Code::State
        | Code::PollExceeded => (ErrorKind::Aborted, "the partition belongs to another member by now"),
        Code::Fenced => (ErrorKind::FailedPrecondition, "another member has the same instance id"),
        Code::InconsistentGroupProtocol => {
            (ErrorKind::FailedPrecondition, "the group's other members assign partitions in another way")
        }
        // Positions.
        Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::LogTruncation => {
            (ErrorKind::OutOfRange, "the log no longer holds the position")
        }
        Code::BadMessage | Code::BadCompression => (ErrorKind::DataLoss, "the record cannot be read back"),
        // Standing.
        Code::TopicAlreadyExists => (ErrorKind::AlreadyExists, "the topic exists already"),
        Code::UnknownGroup | Code::GroupIdNotFound => (ErrorKind::NotFound, "there is no such group"),
        Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::NotImplemented
        | Code::SecurityDisabled => (ErrorKind::Unimplemented, "this broker does not offer it"),
        _ => (ErrorKind::Unknown, "librdkafka failed"),
    }
}

/// Whether the broker refused a batch because of what may be another message's fault.
pub(crate) fn is_of_batch(code: Code) -> bool {
    is_size(code) || matches!(code, Code::InvalidRecord | Code::InvalidDifferentRecord | Code::InvalidTimestamp)
}

/// Whether a batch, or one message, is larger than what is taken.
pub(crate) fn is_size(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::MessageBatchTooLarge)
}

#[cfg(test)]
mod tests {
    use rdkafka::{ClientConfig, producer::BaseProducer};

    use super::*;

    #[test]
    fn every_code_has_its_kind() {
        use ErrorKind as Kind;
        let rows: &[(&[Code], Kind)] = &[
            (&[Code::MessageSizeTooLarge, Code::MessageBatchTooLarge, Code::InvalidMessageSize], Kind::InvalidArgument),
            (&[Code::UnknownTopic, Code::UnknownTopicOrPartition, Code::UnknownPartition], Kind::InvalidArgument),
            (
                &[Code::InvalidTopic, Code::InvalidMessage, Code::InvalidTimestamp, Code::InvalidRecord],
                Kind::InvalidArgument,
            ),
            (&[Code::InvalidDifferentRecord], Kind::Unavailable),
            (
                &[
                    Code::InvalidArgument,
                    Code::InvalidPartitions,
                    Code::InvalidReplicationFactor,
                    Code::InvalidReplicaAssignment,
                    Code::InvalidConfig,
                    Code::InvalidGroupId,
                    Code::InvalidSessionTimeout,
                    Code::InvalidRequest,
                    Code::OffsetMetadataTooLarge,
                ],
                Kind::InvalidArgument,
            ),
            (
                &[Code::Authentication, Code::SaslAuthenticationFailed, Code::DelegationTokenExpired],
                Kind::Unauthenticated,
            ),
            (&[Code::UnsupportedSASLMechanism, Code::IllegalSASLState], Kind::Unauthenticated),
            (
                &[
                    Code::TopicAuthorizationFailed,
                    Code::GroupAuthorizationFailed,
                    Code::ClusterAuthorizationFailed,
                    Code::TransactionalIdAuthorizationFailed,
                    Code::DelegationTokenAuthorizationFailed,
                    Code::PolicyViolation,
                ],
                Kind::PermissionDenied,
            ),
            (&[Code::QueueFull], Kind::ResourceExhausted),
            (&[Code::KafkaStorageError, Code::LogDirNotFound, Code::CriticalSystemResource], Kind::Unavailable),
            (
                &[Code::MessageTimedOut, Code::OperationTimedOut, Code::RequestTimedOut, Code::TimedOutQueue],
                Kind::DeadlineExceeded,
            ),
            (
                &[
                    Code::BrokerTransportFailure,
                    Code::AllBrokersDown,
                    Code::Resolve,
                    Code::SSL,
                    Code::NetworkException,
                    Code::BrokerNotAvailable,
                    Code::UnknownBroker,
                ],
                Kind::Unavailable,
            ),
            (
                &[
                    Code::LeaderNotAvailable,
                    Code::NotLeaderForPartition,
                    Code::ReplicaNotAvailable,
                    Code::NotEnoughReplicas,
                    Code::NotEnoughReplicasAfterAppend,
                    Code::ISRInsufficient,
                    Code::FencedLeaderEpoch,
                    Code::UnknownLeaderEpoch,
                    Code::NotController,
                ],
                Kind::Unavailable,
            ),
            (
                &[
                    Code::CoordinatorLoadInProgress,
                    Code::CoordinatorNotAvailable,
                    Code::NotCoordinator,
                    Code::WaitingForCoordinator,
                ],
                Kind::Unavailable,
            ),
            (
                &[
                    Code::OutOfOrderSequenceNumber,
                    Code::DuplicateSequenceNumber,
                    Code::InvalidProducerEpoch,
                    Code::UnknownProducerId,
                    Code::InvalidProducerIdMapping,
                    Code::GaplessGuarantee,
                    Code::Fatal,
                ],
                Kind::Unavailable,
            ),
            (&[Code::PurgeQueue, Code::PurgeInflight, Code::BrokerDestroy, Code::DestroyBroker], Kind::Unavailable),
            (
                &[
                    Code::IllegalGeneration,
                    Code::UnknownMemberId,
                    Code::RebalanceInProgress,
                    Code::AssignmentLost,
                    Code::NoOffset,
                    Code::State,
                    Code::PollExceeded,
                ],
                Kind::Aborted,
            ),
            (&[Code::Fenced, Code::InconsistentGroupProtocol], Kind::FailedPrecondition),
            (&[Code::OffsetOutOfRange, Code::AutoOffsetReset, Code::LogTruncation], Kind::OutOfRange),
            (&[Code::BadMessage, Code::BadCompression], Kind::DataLoss),
            (&[Code::TopicAlreadyExists], Kind::AlreadyExists),
            (&[Code::UnknownGroup, Code::GroupIdNotFound], Kind::NotFound),
            (
                &[
                    Code::UnsupportedVersion,
                    Code::UnsupportedFeature,
                    Code::UnsupportedForMessageFormat,
                    Code::UnsupportedCompressionType,
                    Code::NotImplemented,
                    Code::SecurityDisabled,
                ],
                Kind::Unimplemented,
            ),
            (&[Code::Fail, Code::Unknown, Code::StaleControllerEpoch], Kind::Unknown),
        ];
        for (codes, kind) in rows {
            for code in *codes {
                assert_eq!(classify(*code).0, *kind, "{code:?}");
                assert_eq!(from_kafka("broker.publish", KafkaError::MessageProduction(*code)).kind(), *kind);
            }
        }
    }

    #[test]
    fn every_error_of_the_driver_has_its_kind() {
        let nul = std::ffi::CString::new("a\0b").unwrap_err();
        for (error, kind) in [
            (KafkaError::ClientCreation("no".into()), ErrorKind::InvalidArgument),
            (KafkaError::ClientCreation("ssl.key.location failed".into()), ErrorKind::InvalidArgument),
            (KafkaError::Nul(nul), ErrorKind::InvalidArgument),
            (KafkaError::Canceled, ErrorKind::Unavailable),
            (KafkaError::Subscription("no".into()), ErrorKind::Unavailable),
            (KafkaError::Seek("no".into()), ErrorKind::Unavailable),
            (KafkaError::PauseResume("no".into()), ErrorKind::Unavailable),
            (KafkaError::NoMessageReceived, ErrorKind::Unknown),
            (KafkaError::Global(Code::AllBrokersDown), ErrorKind::Unavailable),
            (KafkaError::ConsumerCommit(Code::IllegalGeneration), ErrorKind::Aborted),
        ] {
            let text = error.to_string();
            assert_eq!(from_kafka("broker.subscribe", error).kind(), kind, "{text}");
        }
    }

    #[test]
    fn a_property_that_is_not_taken_is_named_without_its_value() {
        let created = ClientConfig::new().set("sasl.mechanisms.canary", "canary-4711").create::<BaseProducer>();
        let error = from_kafka("broker.connect", created.err().unwrap());
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let text = format!("{error:?} {}", error.report());
        assert!(text.contains("sasl.mechanisms.canary") && !text.contains("canary-4711"), "{text}");
    }
}
