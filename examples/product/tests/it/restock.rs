//! Applications for restocking: made, refused, found with their latest audit.

use product::proto::{CreateRestockApplyRequest, GetRestockApplyInfoRequest};
use tonic::Code;

use crate::{
    databases::{Databases, on_every_database},
    desk::Desk,
};

on_every_database!(
    a_restock_is_applied_for_and_found,
    a_restock_that_makes_no_sense_is_refused_and_writes_nothing,
    the_latest_audit_of_a_restock_is_shown,
);

fn apply(sku_no: &str, quantity: i32, reason: &str) -> CreateRestockApplyRequest {
    CreateRestockApplyRequest { sku_id: sku_no.into(), user_id: -1, quantity, reason: reason.into() }
}

async fn application_no(desk: &Desk) -> String {
    desk.rows("SELECT application_no FROM sku_restock_records").await[0].get(0).unwrap()
}

async fn a_restock_is_applied_for_and_found(databases: Databases) {
    // SKU 1 has exactly its threshold.
    let desk = Desk::with_stock(&databases, &[3]).await;
    desk.write("UPDATE product_skus SET spec_value_text = 'black' WHERE id = 1", &[]).await;
    let (app, mut client) = desk.serve().await;
    let made = client.create_restock_apply(apply("SKU1", 5, "low")).await.unwrap().into_inner();
    let record = made.restock_record.unwrap();
    assert_eq!((record.user_id, record.sku_id, record.quantity, record.reason.as_str()), (-1, 1, 5, "low"));
    assert_eq!((record.status, record.failed_reason.as_str()), (1, ""));
    assert_eq!(record.created_at.len(), "2006-01-02 15:04:05".len(), "{}", record.created_at);
    assert_eq!(record.id, desk.number("SELECT id FROM sku_restock_records").await);
    let sku = made.sku_info.unwrap();
    assert_eq!((sku.id, sku.sku_no.as_str(), sku.spec_value_text.as_str()), (1, "SKU1", "black"));

    let number = application_no(&desk).await;
    let ask = |number: &str, user_id| GetRestockApplyInfoRequest { application_no: number.into(), user_id };
    let found = client.get_restock_apply_info(ask(&number, -1)).await.unwrap().into_inner();
    assert_eq!((found.id, found.sku_id, found.quantity, found.status), (record.id, 1, 5, 1));
    assert_eq!((found.reason.as_str(), found.application_no.as_str(), found.audit), ("low", number.as_str(), None));
    for (number, user_id, code, text) in [
        (number.as_str(), 7, Code::NotFound, "restock apply not found"),
        ("none", -1, Code::NotFound, "restock apply not found"),
        ("", -1, Code::InvalidArgument, "application_no cannot be empty"),
    ] {
        let refused = client.get_restock_apply_info(ask(number, user_id)).await.unwrap_err();
        assert_eq!(refused.code(), code);
        assert!(refused.message().contains(text), "{}", refused.message());
    }
    app.stop().await.unwrap();
}

async fn a_restock_that_makes_no_sense_is_refused_and_writes_nothing(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[4, 3, 3]).await;
    desk.write("UPDATE product_skus SET status = 0 WHERE id = 2", &[]).await;
    let (app, mut client) = desk.serve().await;
    let endless = "x".repeat(256);
    for (request, code, text) in [
        (apply("", 1, "low"), Code::InvalidArgument, "sku_id cannot be empty"),
        (apply("SKU3", 0, "low"), Code::InvalidArgument, "quantity must be greater than 0"),
        (apply("SKU3", -1, "low"), Code::InvalidArgument, "quantity must be greater than 0"),
        (apply("SKU3", 1, ""), Code::InvalidArgument, "reason cannot be empty"),
        (apply("SKU3", 1, &endless), Code::InvalidArgument, "reason is too long"),
        (apply("none", 1, "low"), Code::NotFound, "sku not found"),
        (apply("SKU2", 1, "low"), Code::FailedPrecondition, "off the shelf"),
        (apply("SKU1", 1, "low"), Code::FailedPrecondition, "stock enough"),
    ] {
        let refused = client.create_restock_apply(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{text}");
        assert!(refused.message().contains(text), "{}", refused.message());
    }
    assert_eq!(desk.number("SELECT COUNT(*) FROM sku_restock_records").await, 0);
    app.stop().await.unwrap();
}

async fn the_latest_audit_of_a_restock_is_shown(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[0]).await;
    let (app, mut client) = desk.serve().await;
    let made = client.create_restock_apply(apply("SKU1", 1, "low")).await.unwrap().into_inner();
    let restock_id = made.restock_record.unwrap().id;
    desk.write(
        "INSERT INTO sku_restock_audit \
         (restock_id, audit_user_id, audit_status, audit_failed_reason, created_at, updated_at) VALUES \
         (?, 8, 3, 'too many', '2026-01-02 00:00:00', '2026-01-03 10:20:30'), \
         (?, 7, 1, '', '2026-01-01 00:00:00', '2026-01-01 00:00:00')",
        &[restock_id.into(), restock_id.into()],
    )
    .await;
    let ask = GetRestockApplyInfoRequest { application_no: application_no(&desk).await, user_id: -1 };
    let audit = client.get_restock_apply_info(ask).await.unwrap().into_inner().audit.unwrap();
    assert_eq!((audit.restock_id, audit.audit_user_id, audit.audit_status), (restock_id, 8, 3));
    assert_eq!(audit.audit_failed_reason, "too many");
    assert_eq!((audit.created_at.as_str(), audit.updated_at.as_str()), ("2026-01-02 00:00:00", "2026-01-03 10:20:30"));
    app.stop().await.unwrap();
}
