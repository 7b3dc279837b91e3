//! The tables `orders` and `order_details`.

use micro_core::{Result, Tx};
use micro_tx::{Row, SqlTxExt, Value};

use super::pieces::{list, padded_pieces, pieces};
use crate::domain::{Money, Order, OrderLine, Orders, PayStatus, PaymentState, ShipStatus};

const COLUMNS: &str = "id, order_code, user_id, pay_status, ship_status, pay_error, price";

/// The orders of the database that opened the transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqlOrders;

impl Orders for SqlOrders {
    async fn add(&self, tx: &mut Tx, orders: &[Order]) -> Result<()> {
        let sql = tx.sql()?;
        for piece in pieces(orders) {
            let statement =
                format!("INSERT INTO orders ({COLUMNS}) VALUES {}", list("(?, ?, ?, ?, ?, ?, ?)", piece.len()));
            sql.execute(&statement, &piece.iter().flat_map(order_values).collect::<Vec<_>>()).await?;
        }
        let lines: Vec<(&Order, &OrderLine)> =
            orders.iter().flat_map(|order| order.lines.iter().map(move |line| (order, line))).collect();
        for piece in pieces(&lines) {
            let statement = format!(
                "INSERT INTO order_details \
                 (order_id, user_id, sku_id, product_id, quantity, unit_price, total_price, actual_payment) VALUES {}",
                list("(?, ?, ?, ?, ?, ?, ?, ?)", piece.len())
            );
            sql.execute(&statement, &piece.iter().flat_map(line_values).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    async fn find(&self, tx: &mut Tx, id: i64) -> Result<Option<Order>> {
        let rows = tx.sql()?.fetch_all(&select("o.id = ?"), &[id.into()]).await?;
        Ok(orders_of(&rows)?.pop())
    }

    async fn find_by_codes(&self, tx: &mut Tx, codes: &[&str]) -> Result<Vec<Order>> {
        let sql = tx.sql()?;
        let mut orders = Vec::with_capacity(codes.len());
        for piece in padded_pieces(codes) {
            let condition = format!("o.order_code IN ({})", list("?", piece.len()));
            let codes: Vec<Value> = piece.iter().map(|code| Value::from(**code)).collect();
            orders.extend(orders_of(&sql.fetch_all(&select(&condition), &codes).await?)?);
        }
        Ok(orders)
    }

    async fn payment_states(&self, tx: &mut Tx, ids: &[i64]) -> Result<Vec<PaymentState>> {
        let sql = tx.sql()?;
        let mut states = Vec::with_capacity(ids.len());
        for piece in padded_pieces(ids) {
            let statement = format!(
                "SELECT id, pay_status FROM orders WHERE id IN ({}) AND deleted_at IS NULL",
                list("?", piece.len())
            );
            for row in sql.fetch_all(&statement, &values(piece)).await? {
                states.push(PaymentState { order_id: row.get(0)?, status: PayStatus::from_code(row.get(1)?)? });
            }
        }
        Ok(states)
    }

    async fn save_processing(&self, tx: &mut Tx, ids: &[i64]) -> Result<u64> {
        let sql = tx.sql()?;
        let mut changed = 0;
        for piece in padded_pieces(ids) {
            let statement = format!(
                "UPDATE orders SET pay_status = 3, pay_error = '', updated_at = CURRENT_TIMESTAMP \
                 WHERE id IN ({}) AND pay_status <= 2 AND deleted_at IS NULL",
                list("?", piece.len())
            );
            changed += sql.execute(&statement, &values(piece)).await?;
        }
        Ok(changed)
    }

    async fn save_declined(&self, tx: &mut Tx, id: i64, reason: &str) -> Result<u64> {
        let statement = "UPDATE orders SET pay_error = ?, updated_at = CURRENT_TIMESTAMP \
                         WHERE id = ? AND pay_status <= 2 AND deleted_at IS NULL";
        tx.sql()?.execute(statement, &[reason.into(), id.into()]).await
    }

    async fn save_paid(&self, tx: &mut Tx, ids: &[i64]) -> Result<u64> {
        let sql = tx.sql()?;
        let mut changed = 0;
        for piece in padded_pieces(ids) {
            let statement = format!(
                "UPDATE orders SET pay_status = 4, ship_status = 2, pay_time = CURRENT_TIMESTAMP, \
                 updated_at = CURRENT_TIMESTAMP WHERE id IN ({}) AND pay_status = 3 AND deleted_at IS NULL",
                list("?", piece.len())
            );
            changed += sql.execute(&statement, &values(piece)).await?;
        }
        Ok(changed)
    }

    async fn save_failed(&self, tx: &mut Tx, ids: &[i64], reason: &str) -> Result<u64> {
        let sql = tx.sql()?;
        let mut changed = 0;
        for piece in padded_pieces(ids) {
            let statement = format!(
                "UPDATE orders SET pay_status = 5, ship_status = 1, pay_error = ?, updated_at = CURRENT_TIMESTAMP \
                 WHERE id IN ({}) AND pay_status = 3 AND deleted_at IS NULL",
                list("?", piece.len())
            );
            let mut bound = vec![Value::from(reason)];
            bound.extend(values(piece));
            changed += sql.execute(&statement, &bound).await?;
        }
        Ok(changed)
    }
}

/// Orders with their lines in one statement: a row for each line, or one for an order without.
fn select(condition: &str) -> String {
    format!(
        "SELECT o.id, o.order_code, o.user_id, o.pay_status, o.ship_status, o.pay_error, o.price, \
         d.id AS line_id, d.product_id, d.sku_id, d.quantity, d.unit_price \
         FROM orders o LEFT JOIN order_details d ON d.order_id = o.id AND d.deleted_at IS NULL \
         WHERE {condition} AND o.deleted_at IS NULL ORDER BY o.id, d.id"
    )
}

fn orders_of(rows: &[Row]) -> Result<Vec<Order>> {
    let mut orders: Vec<Order> = Vec::new();
    for row in rows {
        let id: i64 = row.get("id")?;
        if orders.last().is_none_or(|last| last.id != id) {
            orders.push(order(row, id)?);
        }
        if let Some(line_id) = row.get("line_id")? {
            orders.last_mut().expect("pushed above").lines.push(line(row, line_id)?);
        }
    }
    Ok(orders)
}

fn order(row: &Row, id: i64) -> Result<Order> {
    Ok(Order {
        id,
        code: row.get("order_code")?,
        user_id: row.get("user_id")?,
        pay_status: PayStatus::from_code(row.get("pay_status")?)?,
        ship_status: ShipStatus::from_code(row.get("ship_status")?)?,
        pay_error: row.get("pay_error")?,
        price: row.get::<String>("price")?.parse()?,
        lines: Vec::new(),
    })
}

fn line(row: &Row, id: i64) -> Result<OrderLine> {
    Ok(OrderLine {
        id,
        product_id: row.get("product_id")?,
        sku_id: row.get("sku_id")?,
        quantity: row.get("quantity")?,
        unit_price: row.get::<String>("unit_price")?.parse()?,
    })
}

fn order_values(order: &Order) -> [Value; 7] {
    [
        order.id.into(),
        (&order.code).into(),
        order.user_id.into(),
        order.pay_status.code().into(),
        order.ship_status.code().into(),
        (&order.pay_error).into(),
        order.price.to_string().into(),
    ]
}

fn line_values((order, line): &(&Order, &OrderLine)) -> [Value; 8] {
    let total = Money::from_cents(line.unit_price.cents().saturating_mul(line.quantity.into())).to_string();
    [
        order.id.into(),
        order.user_id.into(),
        line.sku_id.into(),
        line.product_id.into(),
        line.quantity.into(),
        line.unit_price.to_string().into(),
        (&total).into(),
        total.into(),
    ]
}

fn values(ids: Vec<&i64>) -> Vec<Value> {
    ids.into_iter().map(|id| Value::from(*id)).collect()
}
