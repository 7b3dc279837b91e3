//! The product service on SQLite: every delivery goes through its inbox as it does in production.

mod catalogue;
mod deduct;
mod desk;
mod give_back;
mod program;
