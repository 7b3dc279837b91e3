//! Reads both databases and counts what breaks an invariant.

use std::collections::{BTreeMap, BTreeSet};

use micro_rs::{prelude::*, tx::SqlDatabase};

use crate::{operations::Seed, report::Report, seed::lines_of};

/// Order statuses as the tables hold them.
const UNPAID: i64 = 2;
const PAID: i64 = 4;
const REFUSED: i64 = 5;

/// Units of one SKU that one order took, by the ledger.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    deductions: i64,
    net: i64,
}

/// What the databases say, in figures.
pub async fn judge(
    orders: &SqlDatabase,
    products: &SqlDatabase,
    seed: Seed,
    accepted: &BTreeSet<i64>,
    report: &mut Report,
) -> Result<()> {
    let ledger = ledger(products).await?;
    judge_orders(orders, seed, accepted, &ledger, report).await?;
    judge_stock(products, seed, &ledger, report).await?;
    let out_of_order = orders.fetch_all("SELECT COALESCE(SUM(out_of_order), 0) FROM order_audit", &[]).await?;
    report.out_of_order = out_of_order[0].get::<i64>(0)?.unsigned_abs();
    Ok(())
}

async fn ledger(products: &SqlDatabase) -> Result<BTreeMap<(i64, i64), Taken>> {
    let rows = products
        .fetch_all("SELECT order_id, sku_id, source_type, quantity FROM inventory_stock_change_records", &[])
        .await?;
    let mut ledger = BTreeMap::<(i64, i64), Taken>::new();
    for row in rows {
        let taken = ledger.entry((row.get(0)?, row.get(1)?)).or_default();
        let quantity: i64 = row.get(3)?;
        // 1 is a deduction, 2 a give-back.
        if row.get::<i64>(2)? == 1 {
            taken.deductions += 1;
            taken.net += quantity;
        } else {
            taken.net -= quantity;
        }
    }
    Ok(ledger)
}

async fn judge_orders(
    orders: &SqlDatabase,
    seed: Seed,
    accepted: &BTreeSet<i64>,
    ledger: &BTreeMap<(i64, i64), Taken>,
    report: &mut Report,
) -> Result<()> {
    report.orders = u64::from(seed.orders);
    report.accepted = accepted.len() as u64;
    let mut taken_by_order = BTreeMap::<i64, BTreeMap<i64, Taken>>::new();
    for (&(order_id, sku_id), &taken) in ledger {
        taken_by_order.entry(order_id).or_default().insert(sku_id, taken);
    }
    for row in orders.fetch_all("SELECT id, pay_status, pay_error FROM orders", &[]).await? {
        let (order_id, status, reason): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let taken = taken_by_order.remove(&order_id).unwrap_or_default();
        let is_settled_well = match status {
            PAID => {
                report.paid += 1;
                taken.iter().map(|(sku, taken)| (*sku, taken.net)).eq(wanted(order_id, seed.skus))
            }
            REFUSED => {
                report.refused += 1;
                !reason.is_empty() && taken.values().all(|taken| taken.net == 0)
            }
            _ => false,
        };
        let is_accepted = accepted.contains(&order_id);
        report.lost += u64::from(is_accepted && !is_settled_well);
        report.doubled += u64::from(taken.values().any(|taken| taken.deductions > 1));
        report.ghosts += u64::from(status == UNPAID && !taken.is_empty());
        report.left_over += u64::from(!is_accepted && status != UNPAID && !is_settled_well);
    }
    report.ghosts += taken_by_order.len() as u64;
    Ok(())
}

fn wanted(order_id: i64, sku_count: u32) -> BTreeMap<i64, i64> {
    let mut wanted = BTreeMap::new();
    for line in lines_of(u32::try_from(order_id).unwrap_or(0), sku_count) {
        *wanted.entry(line.sku_id).or_insert(0) += line.quantity;
    }
    wanted
}

async fn judge_stock(
    products: &SqlDatabase,
    seed: Seed,
    ledger: &BTreeMap<(i64, i64), Taken>,
    report: &mut Report,
) -> Result<()> {
    let mut net_by_sku = BTreeMap::<i64, i64>::new();
    for (&(_, sku_id), taken) in ledger {
        *net_by_sku.entry(sku_id).or_insert(0) += taken.net;
    }
    report.stock_before = i64::from(seed.stock) * i64::from(seed.skus);
    report.deducted_units = net_by_sku.values().sum();
    for row in products.fetch_all("SELECT id, stock, sales FROM product_skus", &[]).await? {
        let (sku_id, stock, sales): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let net = net_by_sku.remove(&sku_id).unwrap_or(0);
        report.stock_after += stock;
        let is_exact = stock >= 0 && stock + net == i64::from(seed.stock) && sales == net;
        report.stock_mismatches += u64::from(!is_exact);
    }
    report.stock_mismatches += net_by_sku.len() as u64;
    Ok(())
}
