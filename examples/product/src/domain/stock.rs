//! Taking the goods of paid orders from stock: all of an order or nothing, never below zero.

use std::collections::HashMap;

use micro_core::{Error, ErrorKind, Result};

/// A paid order whose goods are to be taken from stock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaidOrder {
    order_id: i64,
    event_id: String,
    items: Vec<PaidItem>,
    wanted: Vec<Quantity>,
}

/// A line of a paid order, as it was ordered. A SKU may stand in several lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaidItem {
    /// The product.
    pub product_id: i64,
    /// The variant of it that is kept in stock.
    pub sku_id: i64,
    /// How many.
    pub quantity: u32,
}

/// So many of a SKU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    /// The SKU.
    pub sku_id: i64,
    /// How many.
    pub quantity: u32,
}

/// A SKU's stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkuStock {
    /// The SKU.
    pub sku_id: i64,
    /// How many are there.
    pub stock: u32,
    /// At this stock a refill is due.
    pub threshold: u32,
}

/// What one order did to one SKU's stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StockChange {
    /// The SKU.
    pub sku_id: i64,
    /// How many were taken or given back.
    pub quantity: u32,
    /// The stock before.
    pub before: u32,
    /// The stock after.
    pub after: u32,
    /// At this stock a refill is due.
    pub threshold: u32,
}

/// Why a stock changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An order was paid.
    Payment,
    /// A deduction was undone.
    Return,
}

impl Source {
    /// The number in the table.
    pub const fn code(self) -> i32 {
        match self {
            Self::Payment => 1,
            Self::Return => 2,
        }
    }
}

/// A change of stock and the order it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The order.
    pub order_id: i64,
    /// The change.
    pub change: StockChange,
}

/// What becomes of a paid order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything was taken.
    Deducted(Vec<StockChange>),
    /// Nothing was taken; the reason is for people.
    Refused(String),
}

/// An order that was decided, and the event it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The order.
    pub order_id: i64,
    /// The event.
    pub event_id: String,
}

/// An order whose goods were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deducted {
    /// The order.
    pub order_id: i64,
    /// What was taken, a SKU each.
    pub changes: Vec<StockChange>,
}

/// An order whose goods cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The order.
    pub order: PaidOrder,
    /// Why.
    pub reason: String,
}

impl PaidOrder {
    /// A paid order as its event `event_id` tells it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when it names no order, no goods, or a quantity that is 0 or too large.
    pub fn new(order_id: i64, event_id: String, items: Vec<PaidItem>) -> Result<Self> {
        let refuse = |message: &'static str| {
            Error::new(ErrorKind::InvalidArgument, "product.deduct", message).with_context("order_id", order_id)
        };
        if order_id <= 0 {
            return Err(refuse("the event names no order: expected an OrderId above 0"));
        }
        if items.is_empty() {
            return Err(refuse("the event has no OrderDetails: expected at least one"));
        }
        if let Some(item) = items.iter().find(|item| item.sku_id <= 0 || item.quantity == 0) {
            return Err(refuse("an item needs a sku_id and a quantity above 0")
                .with_context("sku_id", item.sku_id)
                .with_context("quantity", item.quantity));
        }
        let wanted = summed(&items).ok_or_else(|| refuse("the quantities of one SKU add up to too many"))?;
        Ok(Self { order_id, event_id, items, wanted })
    }

    /// The order.
    pub fn order_id(&self) -> i64 {
        self.order_id
    }

    /// The event that told of its payment.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// Its lines as they were ordered.
    pub fn items(&self) -> &[PaidItem] {
        &self.items
    }

    /// What it wants of each SKU: lines of one SKU are summed.
    pub fn wanted(&self) -> &[Quantity] {
        &self.wanted
    }
}

fn summed(items: &[PaidItem]) -> Option<Vec<Quantity>> {
    let mut wanted: Vec<Quantity> = Vec::with_capacity(items.len());
    for item in items {
        match wanted.iter_mut().find(|quantity| quantity.sku_id == item.sku_id) {
            Some(known) => known.quantity = known.quantity.checked_add(item.quantity)?,
            None => wanted.push(Quantity { sku_id: item.sku_id, quantity: item.quantity }),
        }
    }
    Some(wanted)
}

/// The stock of the SKUs on the shelf that a batch of orders wants, while it is decided in memory.
#[derive(Clone, Debug)]
pub struct Shelf {
    skus: HashMap<i64, SkuStock>,
    taken: Vec<Quantity>,
}

impl Shelf {
    /// The shelf with the stock as it was read in the transaction that will write it.
    pub fn new(skus: Vec<SkuStock>) -> Self {
        Self { skus: skus.into_iter().map(|sku| (sku.sku_id, sku)).collect(), taken: Vec::new() }
    }

    /// Takes everything the order wants, or nothing and says why.
    pub fn take(&mut self, order: &PaidOrder) -> Verdict {
        let missing: Vec<String> = order.wanted().iter().filter_map(|wanted| self.missing(wanted)).collect();
        if missing.is_empty() {
            Verdict::Deducted(order.wanted().iter().map(|wanted| self.take_sku(wanted)).collect())
        } else {
            Verdict::Refused(missing.join("; "))
        }
    }

    /// What was taken of each SKU so far, all orders together.
    pub fn taken(&self) -> &[Quantity] {
        &self.taken
    }

    fn missing(&self, wanted: &Quantity) -> Option<String> {
        let Quantity { sku_id, quantity } = wanted;
        match self.skus.get(sku_id) {
            None => Some(format!("sku {sku_id} is unknown or off the shelf")),
            Some(sku) if sku.stock < *quantity => {
                Some(format!("not enough stock: sku {sku_id} has {}, {quantity} are wanted", sku.stock))
            }
            Some(_) => None,
        }
    }

    fn take_sku(&mut self, wanted: &Quantity) -> StockChange {
        let sku = self.skus.get_mut(&wanted.sku_id).expect("missing() found it on the shelf");
        let before = sku.stock;
        sku.stock -= wanted.quantity;
        match self.taken.iter_mut().find(|taken| taken.sku_id == wanted.sku_id) {
            Some(taken) => taken.quantity += wanted.quantity,
            None => self.taken.push(*wanted),
        }
        StockChange {
            sku_id: wanted.sku_id,
            quantity: wanted.quantity,
            before,
            after: sku.stock,
            threshold: sku.threshold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(order_id: i64, items: &[(i64, u32)]) -> Result<PaidOrder> {
        let items =
            items.iter().map(|(sku_id, quantity)| PaidItem { product_id: 100, sku_id: *sku_id, quantity: *quantity });
        PaidOrder::new(order_id, format!("event-{order_id}"), items.collect())
    }

    fn shelf() -> Shelf {
        Shelf::new(vec![SkuStock { sku_id: 1, stock: 5, threshold: 2 }, SkuStock { sku_id: 2, stock: 1, threshold: 2 }])
    }

    #[test]
    fn duplicate_sku_lines_are_summed() {
        let wanted = order(7, &[(1, 2), (2, 1), (1, 3)]).unwrap();
        assert_eq!(wanted.wanted(), [Quantity { sku_id: 1, quantity: 5 }, Quantity { sku_id: 2, quantity: 1 }]);
        assert_eq!(wanted.items().len(), 3);
    }

    #[test]
    fn orders_of_one_batch_see_what_the_earlier_ones_left() {
        let mut shelf = shelf();
        let Verdict::Deducted(first) = shelf.take(&order(1, &[(1, 3)]).unwrap()) else { panic!() };
        assert_eq!((first[0].before, first[0].after), (5, 2));
        let Verdict::Deducted(second) = shelf.take(&order(2, &[(1, 2)]).unwrap()) else { panic!() };
        assert_eq!((second[0].before, second[0].after), (2, 0));
        assert_eq!(shelf.taken(), [Quantity { sku_id: 1, quantity: 5 }]);
    }

    #[test]
    fn an_order_gets_everything_or_nothing() {
        let mut shelf = shelf();
        let Verdict::Refused(reason) = shelf.take(&order(1, &[(1, 1), (2, 2), (9, 1)]).unwrap()) else { panic!() };
        assert_eq!(reason, "not enough stock: sku 2 has 1, 2 are wanted; sku 9 is unknown or off the shelf");
        assert_eq!(shelf.taken(), []);
        assert!(matches!(shelf.take(&order(2, &[(1, 5)]).unwrap()), Verdict::Deducted(_)));
    }

    #[test]
    fn an_event_that_makes_no_sense_is_refused() {
        for (order_id, items) in
            [(0, vec![(1, 1)]), (1, vec![]), (1, vec![(0, 1)]), (1, vec![(1, 0)]), (1, vec![(1, u32::MAX), (1, 1)])]
        {
            assert_eq!(order(order_id, &items).unwrap_err().kind(), ErrorKind::InvalidArgument, "{order_id} {items:?}");
        }
    }
}
