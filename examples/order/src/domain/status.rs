//! The status of an order's payment, and the transitions it may take: 2 → 3 → 4, or 2 → 3 → 5.

use micro_core::{Error, ErrorKind, Result};

/// Where an order's payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PayStatus {
    /// No successful payment yet.
    Unpaid,
    /// The payment arrived; the goods wait for their deduction from stock.
    Processing,
    /// The goods are deducted: paid for good.
    Paid,
    /// Refused or undone; the order's `pay_error` says why.
    Failed,
}

impl PayStatus {
    /// The number in the table and on the wire.
    pub const fn code(self) -> i32 {
        match self {
            Self::Unpaid => 2,
            Self::Processing => 3,
            Self::Paid => 4,
            Self::Failed => 5,
        }
    }

    /// The status of a number; 0 and 1 stand in old rows and mean unpaid, too.
    ///
    /// # Errors
    ///
    /// `OutOfRange` for any other number.
    pub fn from_code(code: i32) -> Result<Self> {
        match code {
            0..=2 => Ok(Self::Unpaid),
            3 => Ok(Self::Processing),
            4 => Ok(Self::Paid),
            5 => Ok(Self::Failed),
            _ => Err(Error::new(ErrorKind::OutOfRange, "order.pay_status", "a pay status is a number from 0 to 5")
                .with_context("pay_status", code)),
        }
    }

    /// How many transitions led here. Every way to a status is equally long, so the number need
    /// not be stored.
    const fn seq(self) -> i64 {
        match self {
            Self::Unpaid => 0,
            Self::Processing => 1,
            Self::Paid | Self::Failed => 2,
        }
    }
}

/// Where an order's shipment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShipStatus {
    /// Nothing to ship yet.
    Initial,
    /// Paid and deducted: ready to ship.
    Ready,
}

impl ShipStatus {
    /// The number in the table and on the wire.
    pub const fn code(self) -> i32 {
        match self {
            Self::Initial => 1,
            Self::Ready => 2,
        }
    }

    /// The status of a number; 0 stands in old rows and means initial, too.
    ///
    /// # Errors
    ///
    /// `OutOfRange` for any other number.
    pub fn from_code(code: i32) -> Result<Self> {
        match code {
            0 | 1 => Ok(Self::Initial),
            2 => Ok(Self::Ready),
            _ => Err(Error::new(ErrorKind::OutOfRange, "order.ship_status", "a ship status is a number from 0 to 2")
                .with_context("ship_status", code)),
        }
    }
}

/// An order's payment: what the transitions are decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaymentState {
    /// The order.
    pub order_id: i64,
    /// Where its payment stands.
    pub status: PayStatus,
}

impl PaymentState {
    /// The payment arrived: 2 → 3. `None` when it had arrived before.
    pub fn begin(self) -> Option<StatusChange> {
        match self.status {
            PayStatus::Unpaid => Some(self.to(PayStatus::Processing)),
            PayStatus::Processing | PayStatus::Paid | PayStatus::Failed => None,
        }
    }

    /// The goods were deducted: 3 → 4. `None` when that was known already.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` for an order that is unpaid or failed: it must not keep the goods.
    pub fn confirm(self) -> Result<Option<StatusChange>> {
        match self.status {
            PayStatus::Processing => Ok(Some(self.to(PayStatus::Paid))),
            PayStatus::Paid => Ok(None),
            PayStatus::Unpaid | PayStatus::Failed => {
                Err(self.refused("order.confirm", "only a payment in processing can be confirmed"))
            }
        }
    }

    /// The goods cannot be had, or were given back: 3 → 5. `None` when that was known already.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` for an order that is unpaid or paid for good.
    pub fn fail(self) -> Result<Option<StatusChange>> {
        match self.status {
            PayStatus::Processing => Ok(Some(self.to(PayStatus::Failed))),
            PayStatus::Failed => Ok(None),
            PayStatus::Unpaid | PayStatus::Paid => {
                Err(self.refused("order.fail", "only a payment in processing can fail"))
            }
        }
    }

    fn to(self, status: PayStatus) -> StatusChange {
        StatusChange { order_id: self.order_id, seq: status.seq(), from: self.status, to: status }
    }

    fn refused(self, operation: &'static str, message: &'static str) -> Error {
        Error::new(ErrorKind::FailedPrecondition, operation, message)
            .with_context("order_id", self.order_id)
            .with_context("pay_status", self.status.code())
    }
}

/// One transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusChange {
    /// The order.
    pub order_id: i64,
    /// Counts the order's transitions from 1.
    pub seq: i64,
    /// Where it stood.
    pub from: PayStatus,
    /// Where it stands.
    pub to: PayStatus,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(status: PayStatus) -> PaymentState {
        PaymentState { order_id: 7, status }
    }

    #[test]
    fn every_transition_raises_seq_by_one() {
        let begun = state(PayStatus::Unpaid).begin().unwrap();
        assert_eq!((begun.seq, begun.to), (1, PayStatus::Processing));
        for ended in [state(begun.to).confirm(), state(begun.to).fail()] {
            assert_eq!(ended.unwrap().unwrap().seq, 2);
        }
    }

    #[test]
    fn a_second_time_changes_nothing() {
        for status in [PayStatus::Processing, PayStatus::Paid, PayStatus::Failed] {
            assert_eq!(state(status).begin(), None);
        }
        assert_eq!(state(PayStatus::Paid).confirm().unwrap(), None);
        assert_eq!(state(PayStatus::Failed).fail().unwrap(), None);
    }

    #[test]
    fn an_ended_payment_does_not_turn_round() {
        for refused in [
            state(PayStatus::Failed).confirm(),
            state(PayStatus::Unpaid).confirm(),
            state(PayStatus::Paid).fail(),
            state(PayStatus::Unpaid).fail(),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::FailedPrecondition);
        }
    }

    #[test]
    fn codes_are_read_back() {
        for status in [PayStatus::Unpaid, PayStatus::Processing, PayStatus::Paid, PayStatus::Failed] {
            assert_eq!(PayStatus::from_code(status.code()).unwrap(), status);
        }
        assert_eq!(PayStatus::from_code(6).unwrap_err().kind(), ErrorKind::OutOfRange);
        for status in [ShipStatus::Initial, ShipStatus::Ready] {
            assert_eq!(ShipStatus::from_code(status.code()).unwrap(), status);
        }
    }
}
