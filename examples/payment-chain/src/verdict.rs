//! Reads both databases and counts what breaks an invariant.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use micro_rs::{
    prelude::*,
    tx::{Row, SqlDatabase},
};

use crate::{mischief::POISON_PREFIX, operations::Seed, report::Report, seed::lines_of};

/// Order statuses as the tables hold them.
const UNPAID: i64 = 2;
const PAID: i64 = 4;
const REFUSED: i64 = 5;

/// Shipment statuses as the tables hold them.
const NOTHING_TO_SHIP: i64 = 1;
const READY_TO_SHIP: i64 = 2;

/// How many transitions a settled order has: 2 → 3, then 3 → 4 or 3 → 5.
const TRANSITIONS_OF_SETTLED: i64 = 2;

/// By order, then by SKU, what the ledger says was taken.
type Ledger = BTreeMap<i64, BTreeMap<i64, Taken>>;

/// Units of one SKU that one order took, by the ledger.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    deductions: i64,
    returns: i64,
    net: i64,
}

/// An order as its table has it.
struct OrderRow {
    id: i64,
    pay_status: i64,
    ship_status: i64,
    pay_error: String,
    has_pay_time: bool,
    transitions: i64,
}

impl OrderRow {
    fn is_confirmed(&self) -> bool {
        self.pay_status == PAID && self.ship_status == READY_TO_SHIP && self.has_pay_time && self.pay_error.is_empty()
    }

    fn is_refused_with_reason(&self) -> bool {
        self.pay_status == REFUSED
            && self.ship_status == NOTHING_TO_SHIP
            && !self.has_pay_time
            && !self.pay_error.is_empty()
    }
}

/// What the databases say, in figures.
///
/// `accepted` are the orders whose callbacks were answered OK.
pub async fn judge(
    orders: &SqlDatabase,
    products: &SqlDatabase,
    seed: Seed,
    accepted: &BTreeSet<i64>,
    report: &mut Report,
) -> Result<()> {
    let ledger = ledger(products).await?;
    let left = judge_stock(products, seed, &ledger, report).await?;
    judge_orders(&order_rows(orders).await?, seed, accepted, ledger, &left, report);
    let out_of_order = orders.fetch_all("SELECT COALESCE(SUM(out_of_order), 0) FROM order_audit", &[]).await?;
    report.out_of_order = out_of_order[0].get::<i64>(0)?.unsigned_abs();
    Ok(())
}

/// Compares the event ids of all dead letters with those of the poison of this run: each is a dead
/// letter once, and nothing else is one. Poison of earlier runs may be among the letters: it was
/// judged by them.
pub fn judge_dead_letters(letters: &[String], poison: &HashSet<String>, report: &mut Report) {
    let strangers = letters.iter().filter(|id| !id.starts_with(POISON_PREFIX)).count() as u64;
    let of_poison: Vec<&String> = letters.iter().filter(|id| poison.contains(*id)).collect();
    let found = of_poison.iter().collect::<HashSet<_>>().len();
    report.poison = poison.len() as u64;
    report.dead_letters = of_poison.len() as u64 + strangers;
    let (missing, repeated) = (poison.len() - found, of_poison.len() - found);
    report.dead_letter_mismatches = strangers + (missing + repeated) as u64;
}

async fn ledger(products: &SqlDatabase) -> Result<Ledger> {
    let rows = products
        .fetch_all("SELECT order_id, sku_id, source_type, quantity FROM inventory_stock_change_records", &[])
        .await?;
    let mut ledger = Ledger::new();
    for row in rows {
        let taken = ledger.entry(row.get(0)?).or_default().entry(row.get(1)?).or_default();
        let quantity: i64 = row.get(3)?;
        // 1 is a deduction, 2 a give-back.
        if row.get::<i64>(2)? == 1 {
            taken.deductions += 1;
            taken.net += quantity;
        } else {
            taken.returns += 1;
            taken.net -= quantity;
        }
    }
    Ok(ledger)
}

async fn order_rows(orders: &SqlDatabase) -> Result<Vec<OrderRow>> {
    let statement = "SELECT o.id, o.pay_status, o.ship_status, o.pay_error, \
                     CASE WHEN o.pay_time IS NULL THEN 0 ELSE 1 END, COALESCE(a.applied_seq, 0) \
                     FROM orders o LEFT JOIN order_audit a ON a.order_id = o.id";
    let rows = orders.fetch_all(statement, &[]).await?;
    let row = |row: &Row| {
        Ok(OrderRow {
            id: row.get(0)?,
            pay_status: row.get(1)?,
            ship_status: row.get(2)?,
            pay_error: row.get(3)?,
            has_pay_time: row.get(4)?,
            transitions: row.get(5)?,
        })
    };
    rows.iter().map(row).collect()
}

/// `left` is what there is of the SKUs nobody gave back to: a refusal there can be checked
/// afterwards, for their stock only ever fell.
fn judge_orders(
    orders: &[OrderRow],
    seed: Seed,
    accepted: &BTreeSet<i64>,
    mut ledger: Ledger,
    left: &BTreeMap<i64, i64>,
    report: &mut Report,
) {
    report.orders = u64::from(seed.orders);
    report.accepted = accepted.len() as u64;
    let mut missing = accepted.clone();
    for order in orders {
        let taken = ledger.remove(&order.id).unwrap_or_default();
        let wanted = wanted(order.id, seed.skus);
        let is_accepted = missing.remove(&order.id);
        let is_settled = order.pay_status == PAID || order.pay_status == REFUSED;
        let is_settled_well = if order.pay_status == PAID {
            order.is_confirmed() && taken.iter().map(|(sku, taken)| (*sku, taken.net)).eq(wanted.clone())
        } else {
            order.is_refused_with_reason() && taken.values().all(|taken| taken.net == 0)
        };
        report.paid += u64::from(order.pay_status == PAID);
        report.refused += u64::from(order.pay_status == REFUSED);
        report.lost += u64::from(is_accepted && !is_settled_well);
        report.left_over += u64::from(!is_accepted && order.pay_status != UNPAID && !is_settled_well);
        report.doubled += u64::from(is_doubled(&taken, &wanted));
        report.ghosts += u64::from(order.pay_status == UNPAID && !taken.is_empty());
        let could_be_had = || wanted.iter().all(|(sku, units)| left.get(sku).is_some_and(|left| left >= units));
        report.needless_refusals += u64::from(order.pay_status == REFUSED && taken.is_empty() && could_be_had());
        report.missing_transitions += u64::from(is_settled && order.transitions != TRANSITIONS_OF_SETTLED);
    }
    // Accepted orders that are not even there, and deductions of orders that never were.
    report.lost += missing.len() as u64;
    report.ghosts += ledger.len() as u64;
}

fn is_doubled(taken: &BTreeMap<i64, Taken>, wanted: &BTreeMap<i64, i64>) -> bool {
    let is_above = |sku: &i64, net: i64| wanted.get(sku).is_some_and(|wanted| net > *wanted);
    taken.iter().any(|(sku, taken)| taken.deductions > 1 || is_above(sku, taken.net))
}

/// Units by SKU.
fn wanted(order_id: i64, sku_count: u32) -> BTreeMap<i64, i64> {
    let mut wanted = BTreeMap::new();
    for line in lines_of(u32::try_from(order_id).unwrap_or(0), sku_count) {
        *wanted.entry(line.sku_id).or_insert(0) += i64::from(line.quantity);
    }
    wanted
}

/// Answers what is left of each SKU that nothing was given back to.
async fn judge_stock(
    products: &SqlDatabase,
    seed: Seed,
    ledger: &Ledger,
    report: &mut Report,
) -> Result<BTreeMap<i64, i64>> {
    let mut by_sku = BTreeMap::<i64, Taken>::new();
    for (&sku_id, taken) in ledger.values().flatten() {
        let sum = by_sku.entry(sku_id).or_default();
        sum.net += taken.net;
        sum.returns += taken.returns;
    }
    report.stock_before = i64::from(seed.stock) * i64::from(seed.skus);
    report.deducted_units = by_sku.values().map(|taken| taken.net).sum();
    let mut left = BTreeMap::new();
    let rows = products.fetch_all("SELECT id, stock, sales FROM product_skus", &[]).await?;
    report.stock_mismatches += u64::from(seed.skus).abs_diff(rows.len() as u64);
    for row in rows {
        let (sku_id, stock, sales): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let taken = by_sku.remove(&sku_id).unwrap_or_default();
        report.stock_after += stock;
        let is_exact = stock >= 0 && stock + taken.net == i64::from(seed.stock) && sales == taken.net;
        report.stock_mismatches += u64::from(!is_exact);
        if taken.returns == 0 {
            left.insert(sku_id, stock);
        }
    }
    report.stock_mismatches += by_sku.len() as u64;
    Ok(left)
}
