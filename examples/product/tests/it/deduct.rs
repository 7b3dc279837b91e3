//! Paid orders: deducted or refused, once, with true records.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use micro_core::{
    Error, ErrorKind, Result, Tx,
    broker::{Message, header},
    consume::Router,
    event::Received,
};
use product::{
    application::DeductStock,
    domain::{Deducted, ProductEvents, Quantity, Refused, SkuStock, Stocks},
    infrastructure::persistence::{SqlLedger, SqlStocks},
    interfaces::{
        consume::DeductOnPayment,
        publish::{OnBehalf, OutboxProductEvents},
    },
    wire::{
        OnPaymentSuccessDlq,
        order_event::OnPaymentSuccess,
        product_event::{OnInventoryDeductSuccess, SkuInfo},
    },
};

use crate::{
    databases::{Databases, on_every_database},
    desk::{Desk, deliver, event, open, paid},
};

on_every_database!(
    an_order_takes_its_goods_and_says_so,
    duplicate_sku_lines_are_summed,
    change_records_have_true_before_and_after,
    concurrent_duplicate_deducts_once,
    the_same_order_twice_in_a_batch_is_decided_once,
    two_hundred_orders_for_fifty_end_as_fifty_and_a_hundred_and_fifty_refusals,
    a_refusal_tells_the_original_and_is_told_once,
    unknown_and_off_shelf_skus_are_refused_with_the_reason,
    an_event_that_makes_no_sense_is_a_dead_letter_and_its_neighbours_go_on,
    an_undecodable_record_does_not_kill_the_process,
    transient_handler_error_is_retried,
    a_rolled_back_transaction_sends_nothing,
);

async fn an_order_takes_its_goods_and_says_so(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10, 5]).await;
    let message = paid(7, &[(1, 2), (2, 5)]);
    desk.deliver(std::slice::from_ref(&message)).await.unwrap();

    assert_eq!(desk.stock(1).await, (8, 2));
    assert_eq!(desk.stock(2).await, (0, 5));
    let noted = &desk.rows("SELECT event_id, order_id FROM order_inventory_events").await[0];
    assert_eq!(noted.get::<String>(0).unwrap(), message.headers.get_str(header::EVENT_ID).unwrap());
    assert_eq!(noted.get::<i64>(1).unwrap(), 7);
    let outgoing = desk.outgoing().await;
    assert_eq!(outgoing.len(), 1);
    assert_eq!((&*outgoing[0].topic, outgoing[0].key.as_deref()), ("ProductEvent", Some(&b"7"[..])));
    let (event_type, told) = open::<OnInventoryDeductSuccess>(&outgoing[0]);
    assert_eq!(event_type, "OnInventoryDeductSuccess");
    let sku = vec![
        SkuInfo { id: 1, quantity: 2, stock: 8, threshold: 3 },
        SkuInfo { id: 2, quantity: 5, stock: 0, threshold: 3 },
    ];
    assert_eq!(told, OnInventoryDeductSuccess { order_id: 7, sku });
}

/// Wire fault 9.25: two lines of one SKU were "sku not found".
async fn duplicate_sku_lines_are_summed(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[5]).await;
    desk.deliver(&[paid(1, &[(1, 2), (1, 3)])]).await.unwrap();
    assert_eq!(desk.stock(1).await, (0, 5));
    assert_eq!(desk.number("SELECT COUNT(*) FROM inventory_stock_change_records").await, 1);
    // Each line alone would fit, their sum does not.
    let desk = Desk::with_stock(&databases, &[4]).await;
    desk.deliver(&[paid(1, &[(1, 2), (1, 3)])]).await.unwrap();
    assert_eq!(desk.stock(1).await, (4, 0));
    assert_eq!(&*desk.outgoing().await[0].topic, "OrderEventDLQ");
}

/// Wire fault 9.9: oversold stock, and records whose before and after repeat.
async fn change_records_have_true_before_and_after(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[150, 1000]).await;
    let orders: Vec<Message> = (1..=120).map(|order| paid(order, &[(1, 1 + (order % 3) as u32), (2, 1)])).collect();
    for batch in orders.chunks(50) {
        desk.deliver(batch).await.unwrap();
    }
    for (sku_id, stock) in [(1, 150), (2, 1000)] {
        let records = desk
            .rows(&format!(
                "SELECT before_stock, after_stock, quantity, source_type FROM inventory_stock_change_records \
                 WHERE sku_id = {sku_id} ORDER BY id"
            ))
            .await;
        let mut left: i64 = stock;
        for record in &records {
            let number = |index: usize| record.get::<i64>(index).unwrap();
            assert_eq!((number(0), number(1), number(3)), (left, left - number(2), 1));
            left = number(1);
        }
        assert_eq!(desk.stock(sku_id).await, (left, stock - left));
        assert!(left >= 0);
    }
    let decided = desk.number("SELECT COUNT(*) FROM order_inventory_events").await;
    let refused = desk.outgoing().await.iter().filter(|message| &*message.topic == "OrderEventDLQ").count();
    assert_eq!(
        (decided, desk.number("SELECT COUNT(DISTINCT order_id) FROM inventory_stock_change_records").await),
        (120, 120 - refused as i64)
    );
    assert!(refused > 0, "the stock was meant to run out");
}

/// Wire fault 9.10: two deliveries at the same time both deducted, for the look-up stood outside of
/// the transaction and no key was unique.
async fn concurrent_duplicate_deducts_once(databases: Databases) {
    let desk = Arc::new(Desk::with_stock(&databases, &[100]).await);
    let same = paid(1, &[(1, 2)]);
    let mut deliveries = tokio::task::JoinSet::new();
    for number in 0..16 {
        // Half of them with an event id of their own: what the inbox cannot know, the order id does.
        let message = if number % 2 == 0 { same.clone() } else { paid(1, &[(1, 2)]) };
        let desk = desk.clone();
        deliveries.spawn(async move { desk.deliver(&[message]).await });
    }
    while let Some(outcome) = deliveries.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(desk.stock(1).await, (98, 2));
    assert_eq!(desk.number("SELECT COUNT(*) FROM inventory_stock_change_records").await, 1);
    assert_eq!(desk.outgoing().await.len(), 1);
}

async fn the_same_order_twice_in_a_batch_is_decided_once(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10]).await;
    desk.deliver(&[paid(1, &[(1, 2)]), paid(2, &[(1, 1)]), paid(1, &[(1, 2)])]).await.unwrap();
    assert_eq!(desk.stock(1).await, (7, 3));
    assert_eq!(desk.outgoing().await.len(), 2);
}

async fn two_hundred_orders_for_fifty_end_as_fifty_and_a_hundred_and_fifty_refusals(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[50]).await;
    let orders: Vec<Message> = (1..=200).map(|order| paid(order, &[(1, 1)])).collect();
    desk.deliver(&orders).await.unwrap();
    assert_eq!(desk.stock(1).await, (0, 50));
    let outgoing = desk.outgoing().await;
    let (refused, deducted): (Vec<_>, Vec<_>) = outgoing.iter().partition(|message| &*message.topic == "OrderEventDLQ");
    assert_eq!((deducted.len(), refused.len()), (50, 150));
    for message in refused {
        let (event_type, refusal) = open::<OnPaymentSuccessDlq>(message);
        assert_eq!(event_type, "OnPaymentSuccessDLQ");
        assert_eq!(message.headers.get_str(header::EVENT_TYPE), Some("OnPaymentSuccessDLQ"));
        assert_eq!(message.headers.get_str(header::ERROR), Some("not enough stock: sku 1 has 0, 1 are wanted"));
        assert_eq!(message.key.as_deref(), Some(refusal.0.order_id.to_string().as_bytes()));
    }
    assert_eq!(desk.dead_letters().await, [], "a refusal is no dead letter");
}

async fn a_refusal_tells_the_original_and_is_told_once(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[1]).await;
    let original = paid(1, &[(1, 1), (1, 1)]);
    desk.deliver(std::slice::from_ref(&original)).await.unwrap();
    desk.write("UPDATE product_skus SET stock = 100", &[]).await;
    // The same event, then the same order with another event id: decided is decided.
    desk.deliver(&[original.clone(), paid(1, &[(1, 1)])]).await.unwrap();
    let outgoing = desk.outgoing().await;
    assert_eq!(outgoing.len(), 1);
    let (_, refusal) = open::<OnPaymentSuccessDlq>(&outgoing[0]);
    assert_eq!(refusal.0, open::<OnPaymentSuccess>(&original).1);
    assert_ne!(outgoing[0].headers.get(header::EVENT_ID), original.headers.get(header::EVENT_ID));
    assert_eq!(desk.stock(1).await, (100, 0));
}

async fn unknown_and_off_shelf_skus_are_refused_with_the_reason(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10, 10, 10]).await;
    desk.write("UPDATE product_skus SET status = 0 WHERE id = 2", &[]).await;
    desk.write("UPDATE product_skus SET deleted_at = CURRENT_TIMESTAMP WHERE id = 3", &[]).await;
    desk.deliver(&[paid(1, &[(1, 1), (99, 1)]), paid(2, &[(2, 1)]), paid(3, &[(3, 1)])]).await.unwrap();
    let reasons: Vec<String> = desk
        .outgoing()
        .await
        .iter()
        .map(|message| message.headers.get_str(header::ERROR).unwrap().to_owned())
        .collect();
    let reason = |sku: i64| format!("sku {sku} is unknown or off the shelf");
    assert_eq!(reasons, [reason(99), reason(2), reason(3)]);
    for sku_id in 1..=3 {
        assert_eq!(desk.stock(sku_id).await, (10, 0));
    }
}

async fn an_event_that_makes_no_sense_is_a_dead_letter_and_its_neighbours_go_on(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10]).await;
    let senseless = [paid(2, &[]), paid(0, &[(1, 1)]), paid(3, &[(1, 0)]), paid(4, &[(-1, 1)])];
    let mut batch = vec![paid(1, &[(1, 1)])];
    batch.extend(senseless);
    batch.push(paid(5, &[(1, 1)]));
    desk.deliver(&batch).await.unwrap();
    assert_eq!(desk.stock(1).await, (8, 2));
    assert_eq!(desk.dead_letters().await, [ErrorKind::InvalidArgument; 4]);
    assert_eq!(desk.number("SELECT COUNT(*) FROM order_inventory_events").await, 2);
}

/// Wire fault 9.6: an undecodable record killed the process, again after every restart.
async fn an_undecodable_record_does_not_kill_the_process(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10]).await;
    let mut bad_payload = event(&OnPaymentSuccess { order_id: 3, order_details: Vec::new() });
    bad_payload.body =
        micro_core::event::seal_payload("OrderEvent", "OnPaymentSuccess", "3", vec![0xff; 4].into(), "", "").body;
    let batch = [
        Message::keyed("OrderEvent", "1", vec![0xff; 9]),
        Message::unkeyed("OrderEvent", ""),
        bad_payload,
        paid(4, &[(1, 1)]),
    ];
    desk.deliver(&batch).await.unwrap();
    assert_eq!(desk.stock(1).await, (9, 1));
    assert_eq!(desk.dead_letters().await, [ErrorKind::DataLoss; 3]);
}

/// Wire faults 9.1 and 9.2: every error that was not permanent was swallowed and acked.
async fn transient_handler_error_is_retried(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10]).await;
    let flaky =
        |failures| FlakyStocks { failures_left: AtomicU32::new(failures), stocks: SqlStocks::new(&desk.database) };
    let stocks = flaky(2);
    let handler = DeductOnPayment(DeductStock::new(stocks, SqlLedger), OutboxProductEvents::new(desk.outbox()));
    let inbox = desk.inbox_of(Router::new().on_batch(handler));
    deliver(&inbox, &[paid(1, &[(1, 1)])]).await.unwrap();
    assert_eq!(desk.stock(1).await, (9, 1));
    assert_eq!(desk.outgoing().await.len(), 1);
    assert_eq!(desk.dead_letters().await, []);
    // One that stays away is kept with its cause instead of being lost.
    let stocks = flaky(u32::MAX);
    let handler = DeductOnPayment(DeductStock::new(stocks, SqlLedger), OutboxProductEvents::new(desk.outbox()));
    let inbox = desk.inbox_of(Router::new().on_batch(handler));
    deliver(&inbox, &[paid(2, &[(1, 1)])]).await.unwrap();
    assert_eq!(desk.stock(1).await, (9, 1));
    assert_eq!(desk.dead_letters().await, [ErrorKind::Unavailable]);
}

/// Wire fault 9.3: events left before the commit and stayed after a rollback.
async fn a_rolled_back_transaction_sends_nothing(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10]).await;
    let events = FailingEvents(OutboxProductEvents::new(desk.outbox()));
    let handler = DeductOnPayment(DeductStock::new(SqlStocks::new(&desk.database), SqlLedger), events);
    let inbox = desk.inbox_of(Router::new().on_batch(handler));
    deliver(&inbox, &[paid(1, &[(1, 1)])]).await.unwrap();
    assert_eq!(desk.outgoing().await, []);
    assert_eq!(desk.stock(1).await, (10, 0));
    assert_eq!(desk.number("SELECT COUNT(*) FROM order_inventory_events").await, 0);
    assert_eq!(desk.number("SELECT COUNT(*) FROM inventory_stock_change_records").await, 0);
    assert_eq!(desk.dead_letters().await, [ErrorKind::FailedPrecondition]);
}

/// Stocks that cannot be reached so many times.
struct FlakyStocks {
    failures_left: AtomicU32,
    stocks: SqlStocks,
}

impl Stocks for FlakyStocks {
    async fn on_shelf(&self, tx: &mut Tx, sku_ids: &[i64]) -> Result<Vec<SkuStock>> {
        let step = |left: u32| left.checked_sub(1);
        if self.failures_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).is_ok() {
            return Err(Error::new(ErrorKind::Unavailable, "stocks.on_shelf", "the table cannot be reached"));
        }
        self.stocks.on_shelf(tx, sku_ids).await
    }

    async fn find(&self, tx: &mut Tx, sku_ids: &[i64]) -> Result<Vec<SkuStock>> {
        self.stocks.find(tx, sku_ids).await
    }

    async fn withdraw(&self, tx: &mut Tx, quantities: &[Quantity]) -> Result<u64> {
        self.stocks.withdraw(tx, quantities).await
    }

    async fn put_back(&self, tx: &mut Tx, quantities: &[Quantity]) -> Result<u64> {
        self.stocks.put_back(tx, quantities).await
    }
}

/// Events that are written, whereupon something fails.
struct FailingEvents(OutboxProductEvents);

impl OnBehalf for FailingEvents {
    fn of_events(&self, received: &[Received<OnPaymentSuccess>]) -> Self {
        Self(self.0.of_events(received))
    }
}

impl ProductEvents for FailingEvents {
    async fn decided(&self, tx: &mut Tx, deducted: &[Deducted], refused: &[Refused]) -> Result<()> {
        self.0.decided(tx, deducted, refused).await?;
        Err(Error::new(ErrorKind::FailedPrecondition, "test.decided", "something after the event fails"))
    }
}
