//! Products and their SKUs as the catalogue shows them.

use micro_core::{Error, ErrorKind, Result};

use super::Money;

/// A product that is to be added, with its one SKU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewProduct {
    /// The number of the product and of its SKU, unique.
    pub number: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Its category.
    pub category_id: i64,
    /// What one costs.
    pub price: Money,
}

impl NewProduct {
    /// Checks what every product needs.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` without a number or a name, or with a price below 0.
    pub fn checked(self) -> Result<Self> {
        let refuse = |message| Err(Error::new(ErrorKind::InvalidArgument, "product.add", message));
        if self.number.is_empty() {
            return refuse("product_sku is empty: expected the product's number");
        }
        if self.name.is_empty() {
            return refuse("product_name is empty: expected the product's name");
        }
        if self.price < Money::default() {
            return refuse("product_price is below 0");
        }
        Ok(self)
    }
}

/// A SKU, its product and its images.
#[derive(Clone, Debug, PartialEq)]
pub struct SkuDetail {
    /// The SKU's level and names.
    pub level: SkuLevel,
    /// The product it belongs to.
    pub product_id: i64,
    /// The ids of its specifications.
    pub spec_value_ids: String,
    /// What one costs.
    pub price: Money,
    /// What one costs elsewhere.
    pub market_price: Money,
    /// How many were sold.
    pub sales: i32,
    /// Its image.
    pub main_image: String,
    /// When it was added, `2006-01-02 15:04:05`.
    pub created_at: String,
    /// When it was changed.
    pub updated_at: String,
    /// The product's number.
    pub product_no: String,
    /// The product's name.
    pub product_name: String,
    /// The product's image.
    pub product_main_image: String,
    /// The product's description.
    pub product_description: String,
    /// Its images, in order.
    pub images: Vec<SkuImage>,
}

/// An image of a SKU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkuImage {
    /// Its id.
    pub id: i64,
    /// Where it is.
    pub url: String,
    /// Whether it is the one to show first.
    pub is_main: bool,
    /// Its place among the others.
    pub display_order: i32,
}

/// A SKU's stock and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkuLevel {
    /// The SKU.
    pub sku_id: i64,
    /// Its number.
    pub sku_no: String,
    /// Its name.
    pub name: String,
    /// The text of its specifications.
    pub spec_value_text: String,
    /// How many are there.
    pub stock: u32,
    /// At this stock a refill is due.
    pub stock_warn: u32,
    /// 1 on the shelf, 0 off it.
    pub status: i32,
}

impl SkuLevel {
    /// The threshold that was asked for, or the SKU's own when it was 0.
    pub fn threshold(&self, asked: u32) -> u32 {
        if asked == 0 { self.stock_warn } else { asked }
    }

    /// Whether the threshold is there at least.
    pub fn is_sufficient(&self, asked: u32) -> bool {
        self.stock >= self.threshold(asked)
    }

    /// Whether it can be sold.
    pub fn is_on_shelf(&self) -> bool {
        self.status == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threshold_0_is_the_skus_own() {
        let level = SkuLevel {
            sku_id: 1,
            sku_no: "S".into(),
            name: "S".into(),
            spec_value_text: String::new(),
            stock: 10,
            stock_warn: 10,
            status: 1,
        };
        assert_eq!((level.threshold(0), level.is_sufficient(0)), (10, true));
        assert_eq!((level.threshold(11), level.is_sufficient(11)), (11, false));
    }
}
