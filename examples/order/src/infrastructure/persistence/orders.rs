//! The tables `orders` and `order_details`.

use micro_core::{Result, Tx};
use micro_tx::{Row, SqlDatabase, SqlTxExt, Value};

use super::pieces::{filled, list, pieces, repeated};
use crate::{
    domain::{Failure, Money, Order, OrderLine, OrderQueries, Orders, PayStatus, PaymentState, ShipStatus},
    infrastructure::dialect::Dialect,
};

/// The orders of a database.
#[derive(Clone, Debug)]
pub struct SqlOrders {
    database: SqlDatabase,
    dialect: Dialect,
}

impl SqlOrders {
    /// Those of `database`, whose transactions they are used in.
    pub fn new(database: &SqlDatabase) -> Self {
        Self { database: database.clone(), dialect: Dialect::of(database) }
    }

    /// Changes those of these orders that fulfil `condition`; answers how many.
    async fn update(&self, tx: &mut Tx, set: &str, condition: &str, ids: &[i64]) -> Result<u64> {
        let sql = tx.sql()?;
        let mut changed = 0;
        for piece in filled(ids) {
            let statement = format!(
                "UPDATE orders SET {set}, updated_at = CURRENT_TIMESTAMP \
                 WHERE id IN ({}) AND {condition} AND deleted_at IS NULL",
                list("?", piece.len())
            );
            changed += sql.execute(&statement, &values(&piece)).await?;
        }
        Ok(changed)
    }
}

impl OrderQueries for SqlOrders {
    async fn find(&self, id: i64) -> Result<Option<Order>> {
        let rows = self.database.fetch_all(&select("o.id = ?"), &[id.into()]).await?;
        Ok(orders_of(&rows)?.pop())
    }
}

impl Orders for SqlOrders {
    async fn add(&self, tx: &mut Tx, orders: &[Order]) -> Result<()> {
        let sql = tx.sql()?;
        let decimal = self.dialect.decimal_value();
        let row = format!("(?, ?, ?, ?, ?, ?, {decimal}, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)");
        for piece in pieces(orders) {
            let statement = format!(
                "INSERT INTO orders (id, order_code, user_id, pay_status, ship_status, pay_error, price, created_at, \
                 updated_at) VALUES {}",
                list(&row, piece.len())
            );
            sql.execute(&statement, &piece.iter().flat_map(order_values).collect::<Vec<_>>()).await?;
        }
        let lines: Vec<(&Order, &OrderLine)> =
            orders.iter().flat_map(|order| order.lines.iter().map(move |line| (order, line))).collect();
        let row = format!("(?, ?, ?, ?, ?, {decimal}, {decimal}, {decimal})");
        for piece in pieces(&lines) {
            let statement = format!(
                "INSERT INTO order_details \
                 (order_id, user_id, sku_id, product_id, quantity, unit_price, total_price, actual_payment) VALUES {}",
                list(&row, piece.len())
            );
            sql.execute(&statement, &piece.iter().flat_map(line_values).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    async fn find_by_codes(&self, tx: &mut Tx, codes: &[&str]) -> Result<Vec<Order>> {
        let sql = tx.sql()?;
        let mut orders = Vec::with_capacity(codes.len());
        for piece in filled(codes) {
            let condition = format!("o.order_code IN ({})", list("?", piece.len()));
            let codes: Vec<Value> = piece.into_iter().map(Value::from).collect();
            orders.append(&mut orders_of(&sql.fetch_all(&select(&condition), &codes).await?)?);
        }
        Ok(orders)
    }

    async fn payment_states(&self, tx: &mut Tx, ids: &[i64]) -> Result<Vec<PaymentState>> {
        let sql = tx.sql()?;
        let mut states = Vec::with_capacity(ids.len());
        for piece in filled(ids) {
            let statement = format!(
                "SELECT id, pay_status FROM orders WHERE id IN ({}) AND deleted_at IS NULL",
                list("?", piece.len())
            );
            for row in sql.fetch_all(&statement, &values(&piece)).await? {
                states.push(PaymentState { order_id: row.get(0)?, status: PayStatus::from_code(row.get(1)?)? });
            }
        }
        Ok(states)
    }

    async fn save_processing(&self, tx: &mut Tx, ids: &[i64]) -> Result<u64> {
        let set = "pay_status = 3, pay_error = ''";
        self.update(tx, set, "pay_status <= 2", ids).await
    }

    async fn save_declined(&self, tx: &mut Tx, id: i64, reason: &str) -> Result<u64> {
        let statement = "UPDATE orders SET pay_error = ?, updated_at = CURRENT_TIMESTAMP \
                         WHERE id = ? AND pay_status <= 2 AND deleted_at IS NULL";
        tx.sql()?.execute(statement, &[reason.into(), id.into()]).await
    }

    async fn save_paid(&self, tx: &mut Tx, ids: &[i64]) -> Result<u64> {
        let set = "pay_status = 4, ship_status = 2, pay_time = CURRENT_TIMESTAMP";
        self.update(tx, set, "pay_status = 3", ids).await
    }

    async fn save_failed(&self, tx: &mut Tx, failures: &[Failure]) -> Result<u64> {
        let sql = tx.sql()?;
        let mut changed = 0;
        for piece in filled(failures) {
            let statement = format!(
                "UPDATE orders SET pay_status = 5, ship_status = 1, pay_error = CASE id {} END, \
                 updated_at = CURRENT_TIMESTAMP WHERE id IN ({}) AND pay_status = 3 AND deleted_at IS NULL",
                repeated("WHEN ? THEN ?", " ", piece.len()),
                list("?", piece.len())
            );
            let reasons = piece.iter().flat_map(|failure| [failure.order_id.into(), (&failure.reason).into()]);
            let ids = piece.iter().map(|failure| failure.order_id.into());
            changed += sql.execute(&statement, &reasons.chain(ids).collect::<Vec<Value>>()).await?;
        }
        Ok(changed)
    }
}

/// Orders with their lines in one statement: a row for each line, or one for an order without.
/// Decimals are texts, made by every database in the same way.
fn select(condition: &str) -> String {
    format!(
        "SELECT o.id, o.order_code, o.user_id, o.pay_status, o.ship_status, o.pay_error, \
         CONCAT(o.price, '') AS price, d.id AS line_id, d.product_id, d.sku_id, d.quantity, \
         CONCAT(d.unit_price, '') AS unit_price \
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
        price: money(row, "price")?,
        lines: Vec::new(),
    })
}

fn line(row: &Row, id: i64) -> Result<OrderLine> {
    Ok(OrderLine {
        id,
        product_id: row.get("product_id")?,
        sku_id: row.get("sku_id")?,
        quantity: row.get("quantity")?,
        unit_price: money(row, "unit_price")?,
    })
}

fn money(row: &Row, column: &'static str) -> Result<Money> {
    row.get::<String>(column)?.parse()
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

fn values(ids: &[i64]) -> Vec<Value> {
    ids.iter().map(|id| Value::from(*id)).collect()
}
