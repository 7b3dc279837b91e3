//! What the order service does with events that come at the wrong time, or make no sense.

use micro_core::{
    ErrorKind,
    broker::{Message, header},
    event::seal_payload,
};
use order::wire::{
    OnInventoryDeductSuccessDlq, OnPaymentSuccessDlq, order_event::OnPaymentSuccess,
    product_event::OnInventoryDeductSuccess,
};

use crate::{
    databases::{Databases, on_every_database},
    shop::{SETTLED_WITHIN, Shop, event},
};

on_every_database!(
    a_confirmation_that_cannot_be_is_a_dead_letter_and_changes_nothing,
    a_refusal_moves_3_to_5_once_and_keeps_its_first_reason,
    a_lost_confirmation_ends_a_payment_in_processing_and_no_other,
    an_unknown_order_is_tried_again_and_then_kept,
    an_undecodable_record_does_not_kill_the_process,
    a_record_that_nobody_can_read_is_one_dead_letter,
);

fn deducted(order_id: i64) -> Message {
    event(&OnInventoryDeductSuccess { order_id, sku: Vec::new() })
}

fn refused(order_id: i64, reason: &str) -> Message {
    event(&OnPaymentSuccessDlq(OnPaymentSuccess { order_id, order_details: Vec::new() }))
        .with_header(header::ERROR, reason.to_owned())
}

async fn set_status(shop: &Shop, id: i64, status: i64) {
    shop.orders.execute("UPDATE orders SET pay_status = ? WHERE id = ?", &[status.into(), id.into()]).await.unwrap();
}

async fn until_dead_letters(shop: &Shop, kinds: &[ErrorKind]) {
    micro_testkit::eventually(SETTLED_WITHIN, "the dead letters", || async {
        let letters = shop.order_inbox.dead_letters().list(100).await.unwrap();
        let found: Vec<ErrorKind> = letters.iter().map(|letter| letter.kind).collect();
        if found == kinds { Ok(()) } else { Err(found) }
    })
    .await;
}

async fn a_confirmation_that_cannot_be_is_a_dead_letter_and_changes_nothing(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[]).await;
    for (id, status) in [(1, 2), (2, 5)] {
        shop.place(id, &[(1, 1)]).await;
        set_status(&shop, id, status).await;
        shop.publish(deducted(id)).await;
    }
    // Unpaid and failed cannot be confirmed. The copies of both letters come back on the dead
    // letter topic: there the unpaid order cannot fail, and the failed one has nothing to do.
    until_dead_letters(&shop, &[ErrorKind::FailedPrecondition; 3]).await;
    assert_eq!(shop.order(1).await.0, 2);
    assert_eq!(shop.order(2).await.0, 5);
    shop.close().await;
}

async fn a_refusal_moves_3_to_5_once_and_keeps_its_first_reason(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[]).await;
    for id in 1..=3 {
        shop.place(id, &[(1, 1)]).await;
        set_status(&shop, id, 3).await;
    }
    set_status(&shop, 3, 4).await;
    for message in [refused(1, "first"), refused(1, "second"), refused(2, &"é".repeat(600)), refused(3, "late")] {
        shop.publish(message).await;
    }
    shop.until_status(1, 5).await;
    shop.until_status(2, 5).await;
    until_dead_letters(&shop, &[ErrorKind::FailedPrecondition]).await;
    assert_eq!(shop.order(1).await, (5, 1, false, "first".to_owned()));
    assert_eq!(shop.order(2).await.3, "é".repeat(500));
    assert_eq!(shop.order(3).await.0, 4);
    shop.close().await;
}

async fn a_lost_confirmation_ends_a_payment_in_processing_and_no_other(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[]).await;
    shop.place(1, &[(1, 1)]).await;
    set_status(&shop, 1, 3).await;
    let lost = OnInventoryDeductSuccessDlq(OnInventoryDeductSuccess { order_id: 1, sku: Vec::new() });
    shop.publish(event(&lost).with_header(header::ERROR, "gone")).await;
    shop.until_status(1, 5).await;
    assert_eq!(shop.order(1).await.3, "gone");
    shop.close().await;
}

/// Wire fault 9.1: what is not there yet was swallowed. It is tried again, and kept when it stays
/// away.
async fn an_unknown_order_is_tried_again_and_then_kept(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[]).await;
    shop.publish(deducted(404)).await;
    // The confirmation, and the copy that asks for the payment's end.
    until_dead_letters(&shop, &[ErrorKind::NotFound; 2]).await;
    let letters = shop.order_inbox.dead_letters().list(10).await.unwrap();
    assert!(letters.iter().all(|letter| letter.attempts == 4 && letter.cause.contains("order_id=404")));
    shop.close().await;
}

/// Wire fault 9.6: an undecodable record killed the process.
async fn an_undecodable_record_does_not_kill_the_process(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[10]).await;
    shop.place(1, &[(1, 1)]).await;
    shop.publish(Message::keyed("OrderEventDLQ", "1", vec![0xff; 9])).await;
    shop.publish(deducted(-1)).await;
    shop.notify("OC1", "0000").await.unwrap();
    shop.until_status(1, 4).await;
    micro_testkit::eventually(SETTLED_WITHIN, "the dead letters", || async {
        shop.order_inbox.dead_letters().count().await.unwrap() >= 2
    })
    .await;
    shop.close().await;
}

/// Its copy comes to both services on the dead letter topic: neither makes another one of it.
async fn a_record_that_nobody_can_read_is_one_dead_letter(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[]).await;
    shop.publish(Message::keyed("ProductEvent", "1", vec![0xff; 9])).await;
    let mut unknown = seal_payload("ProductEvent", "OnSomethingUnheardOf", "1", vec![1].into(), "", "");
    // Field 9, of a newer envelope.
    unknown.body = [&unknown.body[..], &[0x48, 7]].concat().into();
    shop.publish(unknown.clone()).await;
    until_dead_letters(&shop, &[ErrorKind::DataLoss, ErrorKind::Unimplemented]).await;
    shop.settle().await;
    let copies = shop.published("ProductEventDLQ");
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[0].body, vec![0xff; 9], "as it came");
    assert_eq!(copies[1].body, unknown.body, "as it came");
    assert_eq!(copies[1].headers.get_str(header::EVENT_TYPE), Some("OnSomethingUnheardOfDLQ"));
    assert!(copies.iter().all(|copy| copy.headers.get_str(header::ERROR).is_some_and(|cause| !cause.is_empty())));
    assert_eq!(shop.order_inbox.dead_letters().count().await.unwrap(), 2);
    assert_eq!(shop.product_inbox.dead_letters().count().await.unwrap(), 0);
    shop.close().await;
}
