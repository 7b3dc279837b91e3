//! The product service: stock, and the goods of paid orders taken from it.

pub mod application;
pub mod domain;
pub mod interfaces;
