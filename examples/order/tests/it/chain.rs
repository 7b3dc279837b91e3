//! The whole chain: payment, deduction, confirmation or refusal, and what goes wrong on the way.

use micro_core::broker::header;
use order::{events::OnPaymentSuccess, proto::PayNotifyRequest, wire::OnInventoryDeductSuccessDlq};
use tonic::Request;

use crate::{
    databases::{Databases, on_every_database},
    shop::{SETTLED_WITHIN, Shop, open},
};

on_every_database!(
    a_paid_order_is_deducted_and_confirmed,
    failed_payment_deducts_nothing,
    sold_out_order_ends_in_5_with_reason,
    dead_letter_type_is_rewritten_and_compensation_runs_once,
    the_audit_sees_every_transition_in_order,
    a_record_published_again_has_its_effect_once,
    every_event_belongs_to_the_trace_of_the_callback,
);
#[cfg(feature = "tx-mysql")]
crate::databases::on_one_database!(on_gos_tables, Mariadb, the_tables_of_the_go_services_are_taken_as_they_are);

/// The schema that the Go services run on, theirs alone: a table that is there is left as it is.
#[cfg(feature = "tx-mysql")]
async fn the_tables_of_the_go_services_are_taken_as_they_are(databases: Databases) {
    let schema = include_str!("../vectors/schema.sql");
    let (orders, products) = schema.split_once("USE products;").expect("both databases");
    let made = [databases.create("orders").await, databases.create("products").await];
    for (test, tables) in made.iter().zip([orders, products]) {
        let is_of_table = |line: &&str| !line.starts_with("CREATE DATABASE") && !line.starts_with("USE ");
        let tables = tables.lines().filter(is_of_table).collect::<Vec<_>>().join("\n");
        test.database.execute_script(&tables).await.unwrap();
    }
    let shop = Shop::on(made, &[10, 0]).await;
    for (id, sku) in [(1, 1), (2, 2)] {
        shop.place(id, &[(sku, 2)]).await;
        shop.notify(&format!("OC{id}"), "0000").await.unwrap();
    }
    shop.until_status(1, 4).await;
    shop.until_status(2, 5).await;
    shop.settle().await;
    assert_eq!((shop.stock(1).await, shop.stock(2).await), (8, 0));
    // A row that is deleted softly is none.
    shop.place(3, &[(1, 1)]).await;
    shop.orders.execute("UPDATE orders SET deleted_at = NOW(3) WHERE id = 3", &[]).await.unwrap();
    assert!(shop.notify("OC3", "0000").await.is_err());
    shop.close().await;
}

async fn a_paid_order_is_deducted_and_confirmed(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[10, 5]).await;
    shop.place(1, &[(1, 2), (2, 1)]).await;
    let tables = [(&shop.orders, "orders"), (&shop.products, "product_skus")];
    for (database, table) in tables {
        database.execute(&format!("UPDATE {table} SET updated_at = '2001-01-01 00:00:00'"), &[]).await.unwrap();
    }
    shop.notify("OC1", "0000").await.unwrap();
    shop.until_status(1, 4).await;
    assert_eq!(shop.order(1).await, (4, 2, true, String::new()));
    assert_eq!((shop.stock(1).await, shop.stock(2).await), (8, 4));
    for (database, table) in tables {
        let stale = format!("SELECT COUNT(*) FROM {table} WHERE updated_at < '2002-01-01 00:00:00'");
        let row = database.fetch_optional(&stale, &[]).await.unwrap().unwrap();
        assert_eq!(row.get::<i64>(0).unwrap(), 0, "{table} says when it was changed");
    }
    shop.close().await;
}

/// Wire fault 9.11: a payment that failed was treated as paid.
async fn failed_payment_deducts_nothing(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[10]).await;
    shop.place(1, &[(1, 2)]).await;
    assert_eq!(shop.notify("OC1", "9999").await.unwrap().0, "0000");
    let reason = r#"payment failed: status code "9999", trade no "T1""#;
    assert_eq!(shop.order(1).await, (2, 1, false, reason.to_owned()));
    shop.settle().await;
    assert!(shop.published("OrderEvent").is_empty() && shop.published("OrderStatus").is_empty());
    assert_eq!(shop.stock(1).await, 10);
    // The customer pays again: that one counts, and clears the reason.
    shop.notify("OC1", "0000").await.unwrap();
    shop.until_status(1, 4).await;
    assert_eq!(shop.order(1).await, (4, 2, true, String::new()));
    assert_eq!(shop.stock(1).await, 8);
    shop.close().await;
}

/// Wire fault 9.12: a sold-out order stayed in status 3 for ever.
async fn sold_out_order_ends_in_5_with_reason(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[3]).await;
    for id in 1..=5 {
        shop.place(id, &[(1, 1)]).await;
        shop.notify(&format!("OC{id}"), "0000").await.unwrap();
    }
    shop.place(6, &[(77, 1)]).await;
    shop.notify("OC6", "0000").await.unwrap();
    shop.until_status(6, 5).await;
    shop.settle().await;
    assert_eq!(shop.order(6).await, (5, 1, false, "sku 77 is unknown or off the shelf".to_owned()));
    let mut ended = Vec::new();
    for id in 1..=5 {
        let (pay_status, ship_status, has_pay_time, pay_error) = shop.order(id).await;
        match pay_status {
            4 => assert!(ship_status == 2 && has_pay_time && pay_error.is_empty()),
            _ => assert_eq!(
                (pay_status, ship_status, has_pay_time, pay_error.as_str()),
                (5, 1, false, "not enough stock: sku 1 has 0, 1 are wanted")
            ),
        }
        ended.push(pay_status);
    }
    ended.sort_unstable();
    assert_eq!(ended, [4, 4, 4, 5, 5]);
    assert_eq!(shop.stock(1).await, 0);
    assert_eq!(shop.order_inbox.dead_letters().count().await.unwrap(), 0, "a refusal is no dead letter");
    shop.close().await;
}

/// Wire faults 9.4 and 9.5: the dead letter kept its type, so it confirmed the payment instead of
/// undoing it, and the stock was never given back.
async fn dead_letter_type_is_rewritten_and_compensation_runs_once(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[10]).await;
    shop.place(1, &[(1, 4)]).await;
    shop.place(2, &[(1, 1)]).await;
    // The confirmation of order 1 fails whatever is tried; everything else works.
    let fault = match shop.orders.dialect_name() {
        "sqlite" => {
            "CREATE TRIGGER no_confirmation BEFORE UPDATE ON orders WHEN NEW.id = 1 AND NEW.pay_status = 4 \
             BEGIN SELECT RAISE(ABORT, 'the disk says no'); END"
        }
        _ => "ALTER TABLE orders ADD CONSTRAINT no_confirmation CHECK (order_code <> 'OC1' OR pay_status <> 4)",
    };
    shop.orders.execute(fault, &[]).await.unwrap();
    for code in ["OC1", "OC2"] {
        shop.notify(code, "0000").await.unwrap();
    }
    shop.until_status(1, 5).await;
    shop.until_status(2, 4).await;
    micro_testkit::eventually(SETTLED_WITHIN, "the stock given back", || async { shop.stock(1).await == 9 }).await;
    shop.settle().await;

    let letters = shop.published("ProductEventDLQ");
    assert_eq!(letters.len(), 1);
    let (event_type, lost) = open::<OnInventoryDeductSuccessDlq>(&letters[0]);
    assert_eq!((event_type.as_str(), lost.0.order_id), ("OnInventoryDeductSuccessDLQ", 1));
    assert_eq!(letters[0].headers.get_str(header::EVENT_TYPE), Some("OnInventoryDeductSuccessDLQ"));
    assert_eq!(letters[0].headers.get_str(header::ORIGIN_TOPIC), Some("ProductEvent"));
    let (pay_status, ship_status, has_pay_time, pay_error) = shop.order(1).await;
    assert_eq!((pay_status, ship_status, has_pay_time), (5, 1, false));
    assert!(!pay_error.is_empty() && pay_error.len() <= 500, "{pay_error}");

    // The same letter once more changes nothing.
    shop.publish(letters[0].clone()).await;
    shop.settle().await;
    assert_eq!(shop.stock(1).await, 9);
    let returns = "SELECT quantity FROM inventory_stock_change_records WHERE source_type = 2";
    assert_eq!(shop.product_rows(returns).await.len(), 1);
    assert_eq!(shop.product_inbox.dead_letters().count().await.unwrap(), 0);
    assert_eq!(shop.order_inbox.dead_letters().count().await.unwrap(), 1);
    shop.close().await;
}

async fn the_audit_sees_every_transition_in_order(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[2]).await;
    for id in 1..=4 {
        shop.place(id, &[(1, 1)]).await;
        shop.notify(&format!("OC{id}"), "0000").await.unwrap();
    }
    micro_testkit::eventually(SETTLED_WITHIN, "four orders audited", || async {
        let audited = "SELECT order_id FROM order_audit WHERE applied_seq = 2";
        shop.orders.fetch_all(audited, &[]).await.unwrap().len() == 4
    })
    .await;
    let row = shop.orders.fetch_optional("SELECT SUM(out_of_order) FROM order_audit", &[]).await.unwrap().unwrap();
    assert_eq!(row.get::<i64>(0).unwrap(), 0);
    // One that comes again as another event is counted: the audit can fail.
    let again = order::events::OrderStatusChanged { order_id: 1, seq: 1, from_status: 2, to_status: 3 };
    shop.publish(crate::shop::event(&again)).await;
    micro_testkit::eventually(SETTLED_WITHIN, "the late transition counted", || async {
        let late = "SELECT order_id FROM order_audit WHERE order_id = 1 AND applied_seq = 2 AND out_of_order = 1";
        shop.orders.fetch_all(late, &[]).await.unwrap().len() == 1
    })
    .await;
    shop.close().await;
}

async fn a_record_published_again_has_its_effect_once(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[10]).await;
    shop.place(1, &[(1, 2)]).await;
    shop.notify("OC1", "0000").await.unwrap();
    shop.until_status(1, 4).await;
    shop.settle().await;
    for topic in ["OrderEvent", "ProductEvent", "OrderStatus"] {
        for message in shop.published(topic) {
            shop.publish(message).await;
        }
    }
    shop.settle().await;
    assert_eq!(shop.stock(1).await, 8);
    assert_eq!(shop.published("OrderEvent").len(), 2);
    assert_eq!(open::<OnPaymentSuccess>(&shop.published("OrderEvent")[1]).1.order_id, 1);
    assert_eq!(shop.published("ProductEvent").len(), 2, "the deduction is told once, and was published again");
    assert_eq!(shop.order(1).await.0, 4);
    shop.close().await;
}

async fn every_event_belongs_to_the_trace_of_the_callback(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[1]).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for id in [1, 2] {
        shop.place(id, &[(1, 1)]).await;
        let mut request = Request::new(PayNotifyRequest {
            out_trade_no: format!("OC{id}"),
            trade_no: "T1".into(),
            status_code: "0000".into(),
        });
        request.metadata_mut().insert("traceparent", format!("00-{trace}-b7ad6b7169203331-01").parse().unwrap());
        shop.client.clone().pay_notify(request).await.unwrap();
        shop.until_status(id, if id == 1 { 4 } else { 5 }).await;
    }
    shop.settle().await;
    for (topic, count) in [("OrderEvent", 2), ("ProductEvent", 1), ("OrderEventDLQ", 1), ("OrderStatus", 4)] {
        let messages = shop.published(topic);
        assert_eq!(messages.len(), count, "{topic}");
        for message in messages {
            let traceparent = message.headers.get_str(header::TRACEPARENT).expect("a trace context");
            assert!(traceparent.contains(trace), "{topic}: {traceparent}");
        }
    }
    shop.close().await;
}
