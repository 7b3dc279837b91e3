//! The shop as its customers and its event's readers see it.

mod http;
mod program;
mod shop;
