//! The product service: payments in, stock deducted as a set, outcomes out.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use bench::{
    Result,
    wire::{OnInventoryDeductSuccess, OnPaymentSuccess, SkuInfo},
};
use prost::Message as _;
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};
use tokio::sync::Notify;

use crate::{
    Arguments,
    inbox::{self, Handler, Received},
    outbox::{self, Event},
};

const GROUP: &str = "product-consumer";

pub(crate) async fn run(
    arguments: &Arguments,
    database: MySqlPool,
    wake: Arc<Notify>,
    stopped: impl Future<Output = ()>,
) -> Result<()> {
    let consumer = inbox::consumer(&arguments.kafka, GROUP, "OrderEvent")?;
    let consuming = tokio::spawn(inbox::consume(consumer, database, GROUP, arguments.batch, Deduct { wake }));
    tokio::select! {
        () = stopped => Ok(()),
        ended = consuming => ended?,
    }
}

struct Deduct {
    wake: Arc<Notify>,
}

/// One SKU while a batch is decided.
struct Shelf {
    stock: u32,
    threshold: u32,
    taken: u32,
}

struct Change {
    order_id: i64,
    sku_id: i64,
    quantity: u32,
    before: u32,
}

impl Handler for Deduct {
    async fn handle(&self, tx: &mut MySqlConnection, events: &[&Received]) -> Result<()> {
        let mut payments = Vec::with_capacity(events.len());
        for event in events {
            payments.push((*event, OnPaymentSuccess::decode(event.payload.as_slice())?));
        }
        let mut decided = decided(tx, &payments).await?;
        payments.retain(|(_, payment)| decided.insert(payment.order_id));
        if payments.is_empty() {
            return Ok(());
        }
        let mut shelves = shelves(tx, &payments).await?;
        let (mut changes, mut outcomes) = (Vec::new(), Vec::with_capacity(payments.len()));
        for (_, payment) in &payments {
            outcomes.push(decide(&mut shelves, payment, &mut changes));
        }
        withdraw(tx, &shelves).await?;
        note(tx, &payments, &changes).await?;
        outbox::add(tx, &outcomes).await?;
        Ok(())
    }

    fn committed(&self) {
        self.wake.notify_one();
    }
}

async fn decided(tx: &mut MySqlConnection, payments: &[(&Received, OnPaymentSuccess)]) -> Result<HashSet<i64>> {
    let mut select = QueryBuilder::<MySql>::new("SELECT order_id FROM order_inventory_events WHERE order_id IN (");
    let mut ids = select.separated(", ");
    payments.iter().for_each(|(_, payment)| {
        ids.push_bind(payment.order_id);
    });
    let rows: Vec<(i64,)> = select.push(")").build_query_as().fetch_all(tx).await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

async fn shelves(tx: &mut MySqlConnection, payments: &[(&Received, OnPaymentSuccess)]) -> Result<BTreeMap<i64, Shelf>> {
    let skus: HashSet<i64> =
        payments.iter().flat_map(|(_, payment)| payment.order_details.iter().map(|line| line.sku_id)).collect();
    let mut select = QueryBuilder::<MySql>::new("SELECT id, stock, stock_warn FROM product_skus WHERE id IN (");
    let mut ids = select.separated(", ");
    skus.iter().for_each(|id| {
        ids.push_bind(*id);
    });
    select.push(") AND status = 1 AND deleted_at IS NULL");
    let rows: Vec<(i64, u32, u32)> = select.build_query_as().fetch_all(tx).await?;
    Ok(rows.into_iter().map(|(id, stock, threshold)| (id, Shelf { stock, threshold, taken: 0 })).collect())
}

fn decide(shelves: &mut BTreeMap<i64, Shelf>, payment: &OnPaymentSuccess, changes: &mut Vec<Change>) -> Event {
    let order_id = payment.order_id;
    let mut wanted: HashMap<i64, u32> = HashMap::new();
    for line in &payment.order_details {
        *wanted.entry(line.sku_id).or_default() += line.quantity;
    }
    let has_all = wanted
        .iter()
        .all(|(sku, quantity)| shelves.get(sku).is_some_and(|shelf| shelf.stock - shelf.taken >= *quantity));
    if !has_all {
        let refused = OnInventoryDeductSuccess { order_id, sku: Vec::new() };
        return Event::new("ProductEvent", "OnPaymentRefused", order_id, &refused);
    }
    let mut sku = Vec::with_capacity(wanted.len());
    for (id, quantity) in wanted {
        let Some(shelf) = shelves.get_mut(&id) else { continue };
        let before = shelf.stock - shelf.taken;
        shelf.taken += quantity;
        changes.push(Change { order_id, sku_id: id, quantity, before });
        sku.push(SkuInfo { id, quantity, stock: before - quantity, threshold: shelf.threshold });
    }
    Event::new("ProductEvent", "OnInventoryDeductSuccess", order_id, &OnInventoryDeductSuccess { order_id, sku })
}

async fn withdraw(tx: &mut MySqlConnection, shelves: &BTreeMap<i64, Shelf>) -> Result<()> {
    let taken: Vec<(i64, u32)> =
        shelves.iter().filter(|(_, shelf)| shelf.taken > 0).map(|(id, shelf)| (*id, shelf.taken)).collect();
    if taken.is_empty() {
        return Ok(());
    }
    let mut update = QueryBuilder::<MySql>::new("UPDATE product_skus SET stock = stock - ");
    push_case(&mut update, &taken);
    update.push(", sales = sales + ");
    push_case(&mut update, &taken);
    update.push(", updated_at = CURRENT_TIMESTAMP WHERE id IN (");
    let mut ids = update.separated(", ");
    taken.iter().for_each(|(id, _)| {
        ids.push_bind(*id);
    });
    update.push(") AND status = 1 AND deleted_at IS NULL AND stock >= ");
    push_case(&mut update, &taken);
    if update.build().execute(tx).await?.rows_affected() != taken.len() as u64 {
        return Err("stock changed meanwhile".into());
    }
    Ok(())
}

fn push_case(query: &mut QueryBuilder<MySql>, taken: &[(i64, u32)]) {
    query.push("CASE id");
    for (id, quantity) in taken {
        query.push(" WHEN ").push_bind(*id).push(" THEN ").push_bind(*quantity);
    }
    query.push(" END");
}

async fn note(tx: &mut MySqlConnection, payments: &[(&Received, OnPaymentSuccess)], changes: &[Change]) -> Result<()> {
    let mut insert = QueryBuilder::<MySql>::new("INSERT INTO order_inventory_events (event_id, order_id) ");
    insert.push_values(payments, |mut row, (event, payment)| {
        row.push_bind(&event.event_id).push_bind(payment.order_id);
    });
    insert.build().execute(&mut *tx).await?;
    if changes.is_empty() {
        return Ok(());
    }
    let mut insert = QueryBuilder::<MySql>::new(
        "INSERT INTO inventory_stock_change_records \
         (order_id, sku_id, source_type, quantity, before_stock, after_stock) ",
    );
    insert.push_values(changes, |mut row, change| {
        row.push_bind(change.order_id).push_bind(change.sku_id).push_bind(1).push_bind(change.quantity);
        row.push_bind(change.before).push_bind(change.before - change.quantity);
    });
    insert.build().execute(tx).await?;
    Ok(())
}
