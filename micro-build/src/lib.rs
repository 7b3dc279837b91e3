//! micro-build.
