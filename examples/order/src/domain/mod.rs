//! The rules of orders and their payments. No I/O: storage and publishing are ports.

mod audit;
mod money;
mod order;
mod ports;
mod status;

pub use audit::AuditTrail;
pub use money::Money;
pub use order::{
    AcceptedPayment, Failure, GoodsAnswer, Order, OrderLine, PAY_ERROR_CHARS_MAX, Payment, PaymentOutcome, pay_error,
};
pub use ports::{AuditTrails, GoodsDeduction, OrderEvents, OrderQueries, Orders};
pub use status::{PayStatus, PaymentState, ShipStatus, StatusChange};
