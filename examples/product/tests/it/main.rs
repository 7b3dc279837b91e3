//! The product service on each database: every delivery goes through its inbox as it does in
//! production.

mod catalogue;
mod databases;
mod deduct;
mod deduct_now;
mod desk;
mod give_back;
mod program;
mod restock;
mod sales;
mod suppliers;
