//! micro-middleware.
