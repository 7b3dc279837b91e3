//! Deductions by calls: answered at once, taken once, alone or as branches of global transactions.

use micro_core::{
    Metadata,
    branch::{Branch, Mode, Op},
};
use micro_grpc::GrpcClient;
use product::proto::{OrderDetailReq, OrderProductResp, ProductInvetoryItem, product_client::ProductClient};
use tonic::{Code, Status, metadata::AsciiMetadataKey};

use crate::{
    databases::{Databases, on_every_database},
    desk::{Desk, paid},
};

on_every_database!(
    a_call_takes_the_goods_once_and_answers_as_the_go_service_did,
    goods_that_cannot_be_had_are_refused_and_nothing_is_left,
    a_call_that_makes_no_sense_is_refused,
    what_an_event_refused_is_refused_to_a_call,
    calls_at_the_same_time_never_take_more_than_there_is,
    saga_grpc_ok_fail_dup_hang_null,
);

fn wanted(order_id: i64, lines: &[(i64, i64)]) -> OrderDetailReq {
    let products = lines.iter().map(|(sku_id, quantity)| ProductInvetoryItem {
        product_id: 100,
        product_num: *quantity,
        product_size_id: *sku_id,
    });
    OrderDetailReq { order_id, products: products.collect() }
}

/// A call as the branch of a saga.
fn branch_of(gid: &str, op: Op, request: OrderDetailReq) -> tonic::Request<OrderDetailReq> {
    let mut metadata = Metadata::new();
    Branch::new(Mode::Saga, gid, "02", op).unwrap().write_metadata(&mut metadata);
    let mut request = tonic::Request::new(request);
    for (name, value) in metadata.iter() {
        let name = AsciiMetadataKey::from_bytes(name.as_bytes()).unwrap();
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    request
}

type Calls = ProductClient<GrpcClient>;

async fn deduct(calls: &Calls, request: OrderDetailReq) -> Result<OrderProductResp, Status> {
    calls.clone().deduct_invetory(request).await.map(tonic::Response::into_inner)
}

async fn a_call_takes_the_goods_once_and_answers_as_the_go_service_did(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10, 5]).await;
    let (app, calls) = desk.serve().await;
    for _ in 0..2 {
        let answer = deduct(&calls, wanted(7, &[(1, 2), (2, 5), (1, 1)])).await.unwrap();
        assert_eq!(answer, OrderProductResp { order_id: 7, status_code: "0000".to_owned() });
        assert_eq!((desk.stock(1).await, desk.stock(2).await), ((7, 3), (0, 5)));
    }
    app.stop().await.unwrap();
    assert!(desk.outgoing().await.is_empty(), "who called knows: no event is told");
}

async fn goods_that_cannot_be_had_are_refused_and_nothing_is_left(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[1]).await;
    let (app, calls) = desk.serve().await;
    let refused = deduct(&calls, wanted(7, &[(1, 2)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("the goods of this order cannot be had (order_id=7"), "{refused:?}");
    assert_eq!(desk.number("SELECT COUNT(*) FROM order_inventory_events").await, 0);
    desk.write("UPDATE product_skus SET stock = 5 WHERE id = 1", &[]).await;
    deduct(&calls, wanted(7, &[(1, 2)])).await.unwrap();
    assert_eq!(desk.stock(1).await, (3, 2));
    app.stop().await.unwrap();
}

async fn a_call_that_makes_no_sense_is_refused(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10]).await;
    let (app, calls) = desk.serve().await;
    for (request, told) in [
        (wanted(0, &[(1, 1)]), "names no order"),
        (wanted(7, &[]), "has no OrderDetails"),
        (wanted(7, &[(1, -1)]), "product_num=-1"),
        (wanted(7, &[(1, 0)]), "quantity above 0"),
        (wanted(7, &[(1, 1 << 40)]), "product_num=1099511627776"),
    ] {
        let refused = deduct(&calls, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(told), "{refused:?}");
    }
    assert_eq!(desk.stock(1).await, (10, 0));
    app.stop().await.unwrap();
}

async fn what_an_event_refused_is_refused_to_a_call(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[1]).await;
    let (app, calls) = desk.serve().await;
    desk.deliver(&[paid(7, &[(1, 2)])]).await.unwrap();
    desk.write("UPDATE product_skus SET stock = 5 WHERE id = 1", &[]).await;
    let refused = deduct(&calls, wanted(7, &[(1, 2)])).await.unwrap_err();
    assert!(refused.message().contains("it was refused before"), "{refused:?}");
    assert_eq!(desk.stock(1).await, (5, 0));
    app.stop().await.unwrap();
}

async fn calls_at_the_same_time_never_take_more_than_there_is(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[20]).await;
    let (app, calls) = desk.serve().await;
    let answers = (1..=50).map(|order_id| deduct(&calls, wanted(order_id, &[(1, 1)])));
    let answers: Vec<_> = futures_util::future::join_all(answers).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 20);
    assert_eq!(desk.stock(1).await, (0, 20));
    app.stop().await.unwrap();
}

/// A saga's calls in each order in which a coordinator makes them.
async fn saga_grpc_ok_fail_dup_hang_null(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[10]).await;
    let (app, calls) = desk.serve().await;
    let action = async |gid: &str, order_id, quantity| {
        let request = branch_of(gid, Op::Action, wanted(order_id, &[(1, quantity)]));
        calls.clone().deduct_invetory(request).await
    };
    let compensate = async |gid: &str, order_id, quantity| {
        let request = branch_of(gid, Op::Compensate, wanted(order_id, &[(1, quantity)]));
        calls.clone().deduct_invetory_revert(request).await
    };
    // Ok, and again.
    action("ok", 1, 2).await.unwrap();
    action("ok", 1, 2).await.unwrap();
    assert_eq!(desk.stock(1).await.0, 8);
    // Undone, and again.
    compensate("ok", 1, 2).await.unwrap();
    compensate("ok", 1, 2).await.unwrap();
    assert_eq!(desk.stock(1).await.0, 10);
    // Too late.
    action("ok", 1, 2).await.unwrap();
    assert_eq!(desk.stock(1).await.0, 10);
    // Refused for good, as often as it is asked; undoing it undoes nothing.
    for _ in 0..2 {
        let refused = action("fail", 2, 11).await.unwrap_err();
        assert_eq!(refused.code(), Code::Aborted, "DTM takes it for a failure: {refused:?}");
    }
    compensate("fail", 2, 11).await.unwrap();
    // Undone before it came: it must not come any more.
    compensate("null", 3, 1).await.unwrap();
    action("null", 3, 1).await.unwrap();
    assert_eq!(desk.stock(1).await.0, 10);
    app.stop().await.unwrap();
}
