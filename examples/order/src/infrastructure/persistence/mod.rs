//! The ports of the domain as SQL statements.

mod audit_trails;
mod orders;
mod pieces;

pub use audit_trails::SqlAuditTrails;
pub use orders::SqlOrders;
