//! Applications for restocking a SKU.

use micro_core::{Error, ErrorKind, Result};

use super::SkuLevel;

/// How many characters a reason has at most: the width of its column.
const REASON_CHARS_MAX: usize = 255;

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestockWish {
    /// Who asks; −1 for no user of ours.
    pub user_id: i32,
    /// How many are wanted.
    pub quantity: i32,
    /// Why.
    pub reason: String,
}

impl RestockWish {
    /// Checks what every wish needs.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a quantity that is not above 0, and for a reason that is empty or does
    /// not fit.
    pub fn checked(self) -> Result<Self> {
        let refuse = |message| Error::new(ErrorKind::InvalidArgument, "product.restock", message);
        if self.quantity <= 0 {
            return Err(refuse("quantity must be greater than 0").with_context("quantity", self.quantity));
        }
        if self.reason.is_empty() {
            return Err(refuse("reason cannot be empty"));
        }
        let length = self.reason.chars().count();
        if length > REASON_CHARS_MAX {
            return Err(refuse("reason is too long")
                .with_context("length", length)
                .with_context("length_max", REASON_CHARS_MAX));
        }
        Ok(self)
    }

    /// Whether the SKU may be restocked now.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` for a SKU off the shelf, or with more than its threshold in stock.
    pub fn check_against(&self, sku: &SkuLevel) -> Result<()> {
        let refuse = |message| {
            Err(Error::new(ErrorKind::FailedPrecondition, "product.restock", message)
                .with_context("sku_no", &sku.sku_no))
        };
        if !sku.is_on_shelf() {
            return refuse("the sku is off the shelf");
        }
        if sku.stock > sku.stock_warn {
            return refuse("the sku has stock enough");
        }
        Ok(())
    }
}

/// A stored application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restock {
    /// Its id.
    pub id: i64,
    /// Its number, unique.
    pub application_no: String,
    /// What is asked for.
    pub wish: RestockWish,
    /// The SKU.
    pub sku_id: i64,
    /// 1 waits for its order, 2 ordered in part, 3 ordered, 4 failed.
    pub status: u32,
    /// Why it failed; empty otherwise.
    pub failed_reason: String,
    /// When it was added, `2006-01-02 15:04:05`.
    pub created_at: String,
}

/// What somebody decided on an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestockAudit {
    /// Its id.
    pub id: i64,
    /// The application.
    pub restock_id: i64,
    /// Who decided.
    pub audit_user_id: u32,
    /// 1 waits, 2 approved, 3 refused.
    pub status: u32,
    /// Why it was refused; empty otherwise.
    pub failed_reason: String,
    /// When it was added, `2006-01-02 15:04:05`.
    pub created_at: String,
    /// When it was changed.
    pub updated_at: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(quantity: i32, reason: &str) -> RestockWish {
        RestockWish { user_id: -1, quantity, reason: reason.into() }
    }

    fn level(stock: u32, status: i32) -> SkuLevel {
        SkuLevel {
            sku_id: 1,
            sku_no: "S".into(),
            name: "S".into(),
            spec_value_text: String::new(),
            stock,
            stock_warn: 10,
            status,
        }
    }

    #[test]
    fn a_wish_needs_a_quantity_and_a_reason_that_fits() {
        assert!(wish(1, "low").checked().is_ok());
        assert!(wish(i32::MAX, &"é".repeat(255)).checked().is_ok());
        for refused in [wish(0, "low"), wish(-1, "low"), wish(1, ""), wish(1, &"é".repeat(256))] {
            assert_eq!(refused.checked().unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn only_a_sku_on_the_shelf_and_down_to_its_threshold_is_restocked() {
        for (stock, status, is_allowed) in [(0, 1, true), (10, 1, true), (11, 1, false), (0, 0, false)] {
            let checked = wish(1, "low").check_against(&level(stock, status));
            assert_eq!(checked.is_ok(), is_allowed, "{stock} {status}");
            assert!(checked.err().is_none_or(|error| error.kind() == ErrorKind::FailedPrecondition));
        }
    }
}
