//! The rows that a round begins with, and the judgement over those it ends with.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection};

use crate::Result;

/// How many rows one statement of the seed writes.
const ROWS_PER_STATEMENT: u32 = 500;
const POLL_INTERVAL: Duration = Duration::from_millis(10);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(240);

/// What a round works on: each order takes one unit of one SKU.
#[derive(Clone, Copy, Debug)]
pub struct Seed {
    /// Orders 1 to this wait for their payment.
    pub order_count: u32,
    /// SKUs 1 to this.
    pub sku_count: u32,
    /// Units of each SKU.
    pub stock: u32,
}

/// What says that an order is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Its stock is deducted; nobody confirms.
    Deducted,
    /// The order service has heard of it: the payment is confirmed or refused.
    Confirmed,
}

/// The databases of one round.
pub struct Shop {
    /// The order service's.
    pub orders: String,
    /// The product service's.
    pub products: String,
    connection: MySqlConnection,
}

/// The code an order's payment provider knows it by.
pub fn order_code(order: u32) -> String {
    format!("OC{order}")
}

/// MariaDB's version, and what a commit waits for there.
pub async fn durability(mariadb: &str) -> Result<String> {
    let mut connection = MySqlConnection::connect(&format!("mysql://root@{mariadb}")).await?;
    let (version, flush, sync_binlog, log_bin): (String, i64, i64, i64) = sqlx::query_as(
        "SELECT VERSION(), CAST(@@innodb_flush_log_at_trx_commit AS SIGNED), CAST(@@sync_binlog AS SIGNED), \
         CAST(@@log_bin AS SIGNED)",
    )
    .fetch_one(&mut connection)
    .await?;
    Ok(format!("{version}, innodb_flush_log_at_trx_commit={flush}, log_bin={log_bin}, sync_binlog={sync_binlog}"))
}

impl Shop {
    /// New databases with these names on the server at `url` (`mysql://user@host:port`).
    pub async fn create(url: &str, orders: &str, products: &str) -> Result<Self> {
        let mut shop = Self {
            orders: orders.to_owned(),
            products: products.to_owned(),
            connection: MySqlConnection::connect(url).await?,
        };
        shop.drop_databases().await?;
        for name in [orders, products] {
            shop.execute(format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).await?;
        }
        Ok(shop)
    }

    /// Removes the databases.
    pub async fn drop_databases(&mut self) -> Result<()> {
        for name in [self.orders.clone(), self.products.clone()] {
            self.execute(format!("DROP DATABASE IF EXISTS {name}")).await?;
        }
        Ok(())
    }

    /// Creates tables in one of the databases.
    pub async fn run_script(&mut self, database: &str, script: &'static str) -> Result<()> {
        self.execute(format!("USE {database}")).await?;
        sqlx::raw_sql(script).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Waits until the tables are there: a service that makes them itself may still be at it.
    async fn tables(&mut self) -> Result<()> {
        let statement = format!(
            "SELECT COUNT(*) FROM information_schema.tables WHERE (table_schema, table_name) IN \
             (('{o}', 'orders'), ('{o}', 'order_details'), ('{p}', 'products'), ('{p}', 'product_skus'), \
             ('{p}', 'order_inventory_events'))",
            o = self.orders,
            p = self.products
        );
        let began = Instant::now();
        loop {
            let count: i64 =
                sqlx::query_scalar(AssertSqlSafe(statement.clone())).fetch_one(&mut self.connection).await?;
            if count == 5 {
                return Ok(());
            }
            if began.elapsed() > SETTLE_TIMEOUT {
                return Err(format!("{count} of 5 tables are there after {SETTLE_TIMEOUT:?}").into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Writes products and orders.
    pub async fn seed(&mut self, seed: Seed) -> Result<()> {
        self.tables().await?;
        let (orders, products) = (self.orders.clone(), self.products.clone());
        self.execute(format!(
            "INSERT INTO {products}.products (id, product_no, product_name, category_id) VALUES (1, 'P1', 'Phone', 1)"
        ))
        .await?;
        let skus = (1..=seed.sku_count).map(|sku| format!("({sku}, 1, 'SKU{sku}', 'Phone {sku}', 10, {})", seed.stock));
        self.insert(&format!("{products}.product_skus (id, product_id, sku_no, sku_name, price, stock)"), skus).await?;
        let rows = (1..=seed.order_count).map(|order| format!("({order}, 7, '{}', 2, 1, 10)", order_code(order)));
        self.insert(&format!("{orders}.orders (id, user_id, order_code, pay_status, ship_status, price)"), rows)
            .await?;
        let lines =
            (1..=seed.order_count).map(|order| format!("({order}, 7, {}, 1, 1, 10)", order % seed.sku_count + 1));
        let columns = "(order_id, user_id, sku_id, product_id, quantity, unit_price)";
        self.insert(&format!("{orders}.order_details {columns}"), lines).await
    }

    /// Waits until the orders up to this one are settled; answers when that was seen.
    pub async fn settled(&mut self, settled: Settled, last_order: u32) -> Result<Instant> {
        let began = Instant::now();
        loop {
            let open = self.open_count(settled, last_order).await?;
            if open == 0 {
                return Ok(Instant::now());
            }
            if began.elapsed() > SETTLE_TIMEOUT {
                return Err(format!("{open} orders are not settled {SETTLE_TIMEOUT:?} after the last call").into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn open_count(&mut self, settled: Settled, last_order: u32) -> Result<i64> {
        let statement = match settled {
            Settled::Deducted => {
                format!("SELECT {last_order} - COUNT(*) FROM {}.order_inventory_events", self.products)
            }
            Settled::Confirmed => {
                format!("SELECT COUNT(*) FROM {}.orders WHERE id <= {last_order} AND pay_status < 4", self.orders)
            }
        };
        Ok(sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&mut self.connection).await?)
    }

    /// Fails unless every order took exactly its unit.
    pub async fn verify(&mut self, settled: Settled, seed: Seed) -> Result<()> {
        let (orders, products) = (self.orders.clone(), self.products.clone());
        let status = if settled == Settled::Confirmed { 4 } else { 3 };
        let expected = i64::from(seed.order_count);
        for (what, statement) in [
            (
                "orders with their final status",
                format!("SELECT COUNT(*) FROM {orders}.orders WHERE pay_status = {status}"),
            ),
            ("idempotency rows", format!("SELECT COUNT(*) FROM {products}.order_inventory_events")),
            (
                "orders with an idempotency row",
                format!("SELECT COUNT(DISTINCT order_id) FROM {products}.order_inventory_events"),
            ),
            (
                "units taken from stock",
                format!(
                    "SELECT CAST({} - SUM(stock) AS SIGNED) FROM {products}.product_skus",
                    u64::from(seed.sku_count) * u64::from(seed.stock)
                ),
            ),
        ] {
            let found: i64 = sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&mut self.connection).await?;
            if found != expected {
                return Err(format!("the round is wrong: {found} {what}, expected {expected}").into());
            }
        }
        Ok(())
    }

    /// How often the server ran each kind of statement since it began.
    pub async fn statement_counts(&mut self) -> Result<Vec<(String, u64)>> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SHOW GLOBAL STATUS WHERE Variable_name LIKE 'Com\\_%' OR Variable_name = 'Questions'")
                .fetch_all(&mut self.connection)
                .await?;
        Ok(rows.into_iter().filter_map(|(name, count)| Some((name, count.parse().ok()?))).collect())
    }

    async fn insert(&mut self, target: &str, rows: impl Iterator<Item = String>) -> Result<()> {
        let rows: Vec<String> = rows.collect();
        for part in rows.chunks(ROWS_PER_STATEMENT as usize) {
            self.execute(format!("INSERT INTO {target} VALUES {}", part.join(", "))).await?;
        }
        Ok(())
    }

    async fn execute(&mut self, statement: String) -> Result<()> {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut self.connection).await?;
        Ok(())
    }
}
