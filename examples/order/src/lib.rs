//! The order service: payment callbacks, and what becomes of the orders they pay.

pub mod application;
pub mod domain;
pub mod interfaces;
