//! Fills the two databases: products with stock, orders that wait for their payment.

use micro_rs::{
    prelude::*,
    tx::{SqlDatabase, SqlTxExt, Value},
};
use order::{
    domain::{Money, Order, OrderLine, Orders as _, PayStatus, ShipStatus},
    infrastructure::persistence::SqlOrders,
};

use crate::operations::Seed;

/// How many orders one transaction writes.
const ORDERS_PER_TRANSACTION: u32 = 2_000;

/// One line of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The SKU, from 1.
    pub sku_id: i64,
    /// Units.
    pub quantity: u32,
}

/// The lines of an order: one unit of the SKU that its number points to, and for every third order
/// two units of another one, so that most transactions touch several rows but keys stay spread.
pub fn lines_of(order_id: u32, sku_count: u32) -> Vec<Line> {
    let mut lines = vec![Line { sku_id: i64::from(order_id % sku_count) + 1, quantity: 1 }];
    if sku_count > 1 && order_id.is_multiple_of(3) {
        lines.push(Line { sku_id: i64::from(order_id.wrapping_mul(7) % sku_count) + 1, quantity: 2 });
    }
    lines
}

/// The code an order's provider knows it by.
pub fn order_code(order_id: i64) -> String {
    format!("OC{order_id}")
}

/// Writes products and SKUs, unless an earlier run did.
pub async fn products(database: &SqlDatabase, seed: Seed) -> Result<()> {
    if highest_id(database, "product_skus").await? > 0 {
        return Ok(());
    }
    database
        .run(async |tx| {
            tx.sql()?
                .execute(
                    "INSERT INTO products (id, product_no, product_name, category_id) VALUES (1, 'P1', 'Phone', 1)",
                    &[],
                )
                .await?;
            for sku in 1..=i64::from(seed.skus) {
                let values: [Value; 5] = [
                    sku.into(),
                    format!("SKU{sku}").into(),
                    format!("Phone {sku}").into(),
                    i64::from(seed.stock).into(),
                    10_i64.into(),
                ];
                tx.sql()?
                    .execute(
                        "INSERT INTO product_skus (id, product_id, sku_no, sku_name, price, stock, stock_warn) \
                         VALUES (?, 1, ?, ?, '10.00', ?, ?)",
                        &values,
                    )
                    .await?;
            }
            Ok::<_, Error>(())
        })
        .await
}

/// Writes orders in status 2 (unpaid) and their lines, from where an earlier run was ended.
pub async fn orders(database: &SqlDatabase, seed: Seed) -> Result<()> {
    let store = SqlOrders::new(database);
    let mut first = highest_id(database, "orders").await? + 1;
    while first <= seed.orders {
        let last = seed.orders.min(first + ORDERS_PER_TRANSACTION - 1);
        let orders: Vec<Order> = (first..=last).map(|order_id| order(order_id, seed.skus)).collect();
        database.run(async |tx| store.add(tx, &orders).await).await?;
        first = last + 1;
    }
    Ok(())
}

fn order(order_id: u32, sku_count: u32) -> Order {
    let id = i64::from(order_id);
    let lines = lines_of(order_id, sku_count).into_iter().map(|line| OrderLine {
        id: 0,
        product_id: 1,
        sku_id: line.sku_id,
        quantity: line.quantity,
        unit_price: Money::from_cents(1000),
    });
    Order {
        id,
        code: order_code(id),
        user_id: 7,
        pay_status: PayStatus::Unpaid,
        ship_status: ShipStatus::Initial,
        pay_error: String::new(),
        price: Money::from_cents(1000),
        lines: lines.collect(),
    }
}

async fn highest_id(database: &SqlDatabase, table: &str) -> Result<u32> {
    let rows = database.fetch_all(&format!("SELECT COALESCE(MAX(id), 0) FROM {table}"), &[]).await?;
    Ok(u32::try_from(rows[0].get::<i64>(0)?).expect("ids were counted in 32 bits"))
}
