//! The shop as its customers and its event's readers see it.

mod http;
mod lines;
mod program;
mod shop;
