//! micro-grpc.
