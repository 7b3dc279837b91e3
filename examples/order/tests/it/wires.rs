//! The payment callback when goods are deducted by a call, and by a saga.

use micro_core::saga::{REGISTRY_SCHEME, SagaOptions};
use micro_testkit::eventually;
use order::{
    config::{SagaWire, Wire},
    infrastructure::deduction::BranchAddresses,
    proto::{OrderId, settlement_client::SettlementClient},
};
use tonic::Code;

use crate::{
    databases::{Databases, on_every_database},
    shop::{SETTLED_WITHIN, Shop},
};

on_every_database!(
    by_a_call_an_order_is_settled_before_its_callback_is_answered,
    by_a_call_that_fails_nothing_is_written_and_the_next_callback_mends_it,
    by_a_saga_an_order_is_confirmed_or_fails,
    a_settlement_that_makes_no_sense_is_refused,
);

const PRODUCT: &str = "go.micro.service.Product";

fn by_call(product: &str) -> Wire {
    Wire::Grpc { product: product.to_owned() }
}

fn by_saga() -> Wire {
    let named = |service: &str| format!("{REGISTRY_SCHEME}{service}");
    let addresses = BranchAddresses { order: named("go.micro.service.Order"), product: named(PRODUCT) };
    Wire::Saga(SagaWire { dtm: None, addresses, options: SagaOptions::default() })
}

async fn by_a_call_an_order_is_settled_before_its_callback_is_answered(databases: Databases) {
    let shop = Shop::on_wire(&databases, &[3], by_call(PRODUCT)).await;
    for id in 1..=2 {
        shop.place(id, &[(1, 2)]).await;
    }
    shop.notify("OC1", "0000").await.unwrap();
    assert_eq!(shop.order(1).await, (4, 2, true, String::new()));
    shop.notify("OC2", "0000").await.unwrap();
    let (status, _, _, reason) = shop.order(2).await;
    assert_eq!(status, 5);
    assert!(reason.contains("the goods of this order cannot be had"), "{reason}");
    assert_eq!(shop.stock(1).await, 1);
    shop.close().await;
}

async fn by_a_call_that_fails_nothing_is_written_and_the_next_callback_mends_it(databases: Databases) {
    let shop = Shop::on_wire(&databases, &[3], by_call("nobody.Here")).await;
    shop.place(1, &[(1, 2)]).await;
    let failed = shop.notify("OC1", "0000").await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable, "{failed:?}");
    assert_eq!(shop.order(1).await, (2, 1, false, String::new()));
    assert_eq!(shop.stock(1).await, 3);
    shop.close().await;
}

async fn by_a_saga_an_order_is_confirmed_or_fails(databases: Databases) {
    let shop = Shop::on_wire(&databases, &[3], by_saga()).await;
    for id in 1..=2 {
        shop.place(id, &[(1, 2)]).await;
        shop.notify(&format!("OC{id}"), "0000").await.unwrap();
        shop.until_status(id, if id == 1 { 4 } else { 5 }).await;
    }
    let (_, _, _, reason) = shop.order(2).await;
    assert!(
        reason.starts_with("the goods could not be had: saga ") && reason.ends_with(" was rolled back"),
        "{reason}"
    );
    // Again: the payment was taken.
    shop.notify("OC1", "0000").await.unwrap();
    assert_eq!(shop.stock(1).await, 1);
    // The order is settled by a step of its saga, whose end is written after it.
    eventually(SETTLED_WITHIN, "the end of the sagas", || async {
        shop.orders.saga_log().counts().await.unwrap().due == 0
    })
    .await;
    shop.close().await;
}

async fn a_settlement_that_makes_no_sense_is_refused(databases: Databases) {
    let shop = Shop::on_wire(&databases, &[3], by_saga()).await;
    shop.place(1, &[(1, 2)]).await;
    let mut settlement = SettlementClient::new(shop.channel.clone());
    let refused = settlement.confirm_payment(OrderId { order_id: 0 }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let refused = settlement.confirm_payment(OrderId { order_id: 9 }).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    // Unpaid: neither confirmed nor failed.
    for refused in [
        settlement.confirm_payment(OrderId { order_id: 1 }).await.unwrap_err(),
        settlement.fail_payment(OrderId { order_id: 1 }).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    }
    shop.close().await;
}
