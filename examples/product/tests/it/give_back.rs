//! Confirmations that failed for good: the stock comes back once.

use micro_core::{
    ErrorKind,
    broker::{Message, header},
};
use product::wire::{OnInventoryDeductSuccessDlq, product_event::OnInventoryDeductSuccess};

use crate::{
    databases::{Databases, on_every_database},
    desk::{Desk, event, paid},
};

on_every_database!(
    stock_is_given_back_once_and_recorded,
    what_was_not_taken_is_not_given_back,
    a_dead_letter_with_the_original_type_is_given_back_too,
    goods_off_the_shelf_come_back_too,
);

fn lost_confirmation(order_id: i64) -> Message {
    event(&OnInventoryDeductSuccessDlq(OnInventoryDeductSuccess { order_id, sku: Vec::new() }))
        .with_header(header::ERROR, "the orders table is gone")
}

async fn stock_is_given_back_once_and_recorded(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10, 10]).await;
    desk.deliver(&[paid(1, &[(1, 2), (2, 3)]), paid(2, &[(1, 1)])]).await.unwrap();
    let letter = lost_confirmation(1);
    // Delivered again, and told again under another event id: both change nothing.
    desk.deliver(&[letter.clone(), letter.clone(), lost_confirmation(1)]).await.unwrap();
    desk.deliver(&[lost_confirmation(1)]).await.unwrap();
    assert_eq!(desk.stock(1).await, (9, 1));
    assert_eq!(desk.stock(2).await, (10, 0));
    let records = desk
        .rows(
            "SELECT sku_id, quantity, before_stock, after_stock FROM inventory_stock_change_records \
             WHERE source_type = 2 ORDER BY sku_id",
        )
        .await;
    let records: Vec<[i64; 4]> =
        records.iter().map(|record| [0, 1, 2, 3].map(|column: usize| record.get(column).unwrap())).collect();
    assert_eq!(records, [[1, 2, 7, 9], [2, 3, 7, 10]]);
    assert_eq!(desk.dead_letters().await, []);
}

async fn what_was_not_taken_is_not_given_back(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[1]).await;
    desk.deliver(&[paid(1, &[(1, 2)])]).await.unwrap();
    desk.deliver(&[lost_confirmation(1), lost_confirmation(99)]).await.unwrap();
    assert_eq!(desk.stock(1).await, (1, 0));
    assert_eq!(desk.dead_letters().await, [ErrorKind::FailedPrecondition; 2]);
}

/// Wire fault 9.5: a dead letter whose envelope still has the original type is one all the same.
async fn a_dead_letter_with_the_original_type_is_given_back_too(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10]).await;
    desk.deliver(&[paid(1, &[(1, 4)])]).await.unwrap();
    let mut letter = event(&OnInventoryDeductSuccess { order_id: 1, sku: Vec::new() });
    letter.topic = "ProductEventDLQ".into();
    desk.deliver(&[letter]).await.unwrap();
    assert_eq!(desk.stock(1).await, (10, 0));
}

async fn goods_off_the_shelf_come_back_too(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10]).await;
    desk.deliver(&[paid(1, &[(1, 4)])]).await.unwrap();
    desk.write("UPDATE product_skus SET status = 0", &[]).await;
    desk.deliver(&[lost_confirmation(1)]).await.unwrap();
    assert_eq!(desk.stock(1).await, (10, 0));
}
