//! An order, and what a payment callback does to it.

use micro_core::{Error, ErrorKind, Result};

use super::{Money, PayStatus, PaymentState, ShipStatus, StatusChange};

/// How many characters a `pay_error` keeps: the width of its column.
pub const PAY_ERROR_CHARS_MAX: usize = 500;

/// How many characters an order's code has at most: the width of its column.
const ORDER_CODE_CHARS_MAX: usize = 100;

/// The payment provider's word for success.
const PAYMENT_SUCCEEDED: &str = "0000";

/// An order and its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its id: what events are keyed by.
    pub id: i64,
    /// Its number towards the payment provider, unique.
    pub code: String,
    /// Who ordered.
    pub user_id: i64,
    /// Where its payment stands.
    pub pay_status: PayStatus,
    /// Where its shipment stands.
    pub ship_status: ShipStatus,
    /// Why the last payment came to nothing; empty otherwise.
    pub pay_error: String,
    /// What it costs.
    pub price: Money,
    /// What was ordered.
    pub lines: Vec<OrderLine>,
}

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderLine {
    /// Its id; 0 before it is stored.
    pub id: i64,
    /// The product.
    pub product_id: i64,
    /// The variant of the product that is kept in stock.
    pub sku_id: i64,
    /// How many.
    pub quantity: u32,
    /// The price of one.
    pub unit_price: Money,
}

/// A payment callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The order's code.
    pub order_code: String,
    /// The payment provider's number.
    pub trade_no: String,
    /// Whether the payment succeeded: `0000`.
    pub status_code: String,
}

/// An order that a callback has just moved on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedPayment {
    /// The order.
    pub order: Order,
    /// How its status changed.
    pub change: StatusChange,
}

/// An order whose payment comes to nothing, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The order.
    pub order_id: i64,
    /// What its `pay_error` will say.
    pub reason: String,
}

/// What is known of a paid order's goods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoodsAnswer {
    /// They were asked for; the answer comes later.
    Awaited,
    /// They were taken from stock.
    Deducted,
    /// They cannot be had; the reason is for people.
    Refused(String),
}

/// What a callback does to its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentOutcome {
    /// Paid: the goods are to be deducted.
    Accepted(StatusChange),
    /// The payment failed: the reason is kept, and another payment may succeed.
    Declined(String),
    /// The order was paid before: nothing to do.
    Duplicate,
}

impl Payment {
    /// A callback as it came.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when it names no order, or what cannot be the code of one.
    pub fn new(order_code: String, trade_no: String, status_code: String) -> Result<Self> {
        if order_code.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "order.pay_notify",
                "OutTradeNo is empty: expected the code of an order",
            ));
        }
        let length = order_code.chars().count();
        if length > ORDER_CODE_CHARS_MAX {
            // Without the code itself: it would not fit into an answer.
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "order.pay_notify",
                "OutTradeNo is longer than any order's code",
            )
            .with_context("length", length)
            .with_context("length_max", ORDER_CODE_CHARS_MAX));
        }
        Ok(Self { order_code, trade_no, status_code })
    }

    fn succeeded(&self) -> bool {
        self.status_code == PAYMENT_SUCCEEDED
    }

    fn reason(&self) -> String {
        pay_error(&format!("payment failed: status code {:?}, trade no {:?}", self.status_code, self.trade_no))
    }
}

impl Order {
    /// Where its payment stands.
    pub fn payment_state(&self) -> PaymentState {
        PaymentState { order_id: self.id, status: self.pay_status }
    }

    /// Decides what `payment` does, and moves on when it is accepted.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` for an order without lines: there is nothing to deduct or to ship.
    pub fn receive(&mut self, payment: &Payment) -> Result<PaymentOutcome> {
        let Some(change) = self.payment_state().begin() else { return Ok(PaymentOutcome::Duplicate) };
        if !payment.succeeded() {
            return Ok(PaymentOutcome::Declined(payment.reason()));
        }
        if self.lines.is_empty() {
            return Err(Error::new(ErrorKind::FailedPrecondition, "order.pay_notify", "the order has no details")
                .with_context("order_id", self.id));
        }
        self.pay_status = change.to;
        Ok(PaymentOutcome::Accepted(change))
    }
}

/// A reason cut to the [`PAY_ERROR_CHARS_MAX`] that its column holds.
pub fn pay_error(reason: &str) -> String {
    reason.chars().take(PAY_ERROR_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(pay_status: PayStatus, lines: Vec<OrderLine>) -> Order {
        Order {
            id: 1,
            code: "OC1".into(),
            user_id: 7,
            pay_status,
            ship_status: ShipStatus::Initial,
            pay_error: String::new(),
            price: Money::from_cents(1000),
            lines,
        }
    }

    fn line() -> OrderLine {
        OrderLine { id: 1, product_id: 100, sku_id: 1001, quantity: 2, unit_price: Money::from_cents(500) }
    }

    fn payment(status_code: &str) -> Payment {
        Payment::new("OC1".into(), "T1".into(), status_code.into()).unwrap()
    }

    #[test]
    fn only_a_successful_payment_moves_an_order() {
        let mut order = order(PayStatus::Unpaid, vec![line()]);
        for code in ["9999", "", "0", "00000"] {
            let PaymentOutcome::Declined(reason) = order.receive(&payment(code)).unwrap() else { panic!("{code}") };
            assert!(reason.contains(code), "{reason}");
        }
        let outcome = order.receive(&payment("0000")).unwrap();
        assert!(matches!(outcome, PaymentOutcome::Accepted(change) if change.seq == 1), "{outcome:?}");
        assert_eq!(order.receive(&payment("0000")).unwrap(), PaymentOutcome::Duplicate);
    }

    #[test]
    fn an_order_that_was_paid_takes_no_other_callback() {
        for status in [PayStatus::Processing, PayStatus::Paid, PayStatus::Failed] {
            for code in ["0000", "9999"] {
                let outcome = order(status, vec![line()]).receive(&payment(code)).unwrap();
                assert_eq!(outcome, PaymentOutcome::Duplicate);
            }
        }
    }

    #[test]
    fn an_order_without_lines_cannot_be_paid() {
        let error = order(PayStatus::Unpaid, Vec::new()).receive(&payment("0000")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    }

    #[test]
    fn a_reason_fits_its_column() {
        assert_eq!(pay_error(&"é".repeat(600)).chars().count(), PAY_ERROR_CHARS_MAX);
    }
}
