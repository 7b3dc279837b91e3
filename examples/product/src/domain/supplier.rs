//! Who supplies a SKU.

use super::Money;

/// What a supplier offers of a SKU.
#[derive(Clone, Debug, PartialEq)]
pub struct Supply {
    /// What one costs.
    pub price: Money,
    /// How many must be ordered at least.
    pub min_order_quantity: i32,
    /// Whether this supplier is asked first.
    pub is_preferred: bool,
    /// Who offers it.
    pub supplier: Supplier,
}

/// A supplier.
#[derive(Clone, Debug, PartialEq)]
pub struct Supplier {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Whom to ask for.
    pub contact_person: String,
    /// Its telephone number.
    pub phone: String,
    /// Its address for mail.
    pub email: String,
    /// Where it is.
    pub address: String,
    /// How good it is, 0.00 to 9.99.
    pub rating: f64,
    /// How many days it takes from order to arrival.
    pub lead_time_days: i32,
    /// When it wants to be paid.
    pub payment_terms: String,
}
