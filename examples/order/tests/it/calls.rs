//! The calls: what they answer, what they write, what they refuse.

use std::{sync::Arc, time::Duration};

use micro_core::{Error, ErrorKind, Result, Tx, outbox::OutboxCounts, transaction::RetryPolicy};
use order::{
    application::PayNotify,
    domain::{AcceptedPayment, GoodsAnswer, OrderEvents, Payment, PaymentOutcome, StatusChange},
    events::{OnPaymentSuccess, OrderDetail, OrderStatusChanged},
    infrastructure::persistence::SqlOrders,
    interfaces::publish::OutboxOrderEvents,
    proto::{self, OrderId, PayNotifyRequest},
};
use tonic::{Code, Request};

use crate::{
    databases::{Databases, on_every_database},
    shop::{Shop, open},
};

on_every_database!(
    get_order_by_id_fills_every_field,
    a_callback_that_makes_no_sense_is_refused_and_writes_nothing,
    a_payment_tells_its_goods_and_its_transitions,
    a_duplicate_callback_succeeds_and_writes_nothing,
    a_hundred_concurrent_callbacks_for_one_order_pay_once,
    client_headers_never_reach_an_event,
    a_rolled_back_transaction_sends_nothing,
    the_use_case_says_what_became_of_a_callback,
);

const SUCCESS: (&str, &str) = ("0000", "SUCCESS");

fn success() -> (String, String) {
    (SUCCESS.0.to_owned(), SUCCESS.1.to_owned())
}

/// Wire fault 9.24: product_num, product_size_id and product_price were always 0.
async fn get_order_by_id_fills_every_field(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[10, 10]).await;
    shop.place(1, &[(1, 2), (2, 3)]).await;
    let answer = shop.client.clone().get_order_by_id(OrderId { order_id: 1 }).await.unwrap().into_inner();
    let detail = |id, product_num, product_size_id| proto::OrderDetail {
        id,
        product_id: 100,
        product_num,
        product_size_id,
        product_price: 1010,
        order_id: 1,
    };
    let expected = proto::OrderInfo {
        id: 1,
        pay_status: 2,
        ship_status: 1,
        price: 20.20,
        order_detail: vec![detail(1, 2, 1), detail(2, 3, 2)],
    };
    assert_eq!(answer, expected);
    let unknown = shop.client.clone().get_order_by_id(OrderId { order_id: 9 }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("no such order (order_id=9)"), "{}", unknown.message());
    shop.close().await;
}

async fn a_callback_that_makes_no_sense_is_refused_and_writes_nothing(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[10]).await;
    shop.place(1, &[]).await;
    let endless = "9".repeat(100_000);
    for (code, kind, text) in [
        ("", Code::InvalidArgument, "OutTradeNo is empty"),
        (endless.as_str(), Code::InvalidArgument, "OutTradeNo is longer than any order's code (length=100000"),
        ("' OR 1=1 --", Code::NotFound, "no such order"),
        ("OC9", Code::NotFound, "no such order (order_code=OC9)"),
        ("OC1", Code::FailedPrecondition, "the order has no details (order_id=1)"),
    ] {
        let refused = shop.notify(code, "0000").await.unwrap_err();
        assert_eq!(refused.code(), kind, "{code}");
        assert!(refused.message().contains(text), "{}", refused.message());
    }
    assert_eq!(shop.order(1).await, (2, 1, false, String::new()));
    assert_eq!(shop.orders.outbox().counts().await.unwrap(), OutboxCounts::default());
    assert!(shop.published("OrderEvent").is_empty());
    shop.close().await;
}

async fn a_payment_tells_its_goods_and_its_transitions(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[10]).await;
    shop.place(1, &[(1, 2)]).await;
    assert_eq!(shop.notify("OC1", "0000").await.unwrap(), success());
    shop.until_status(1, 4).await;
    shop.settle().await;
    let payments = shop.published("OrderEvent");
    assert_eq!(payments.len(), 1);
    assert_eq!(payments[0].key.as_deref(), Some(&b"1"[..]));
    let (event_type, payment) = open::<OnPaymentSuccess>(&payments[0]);
    assert_eq!(event_type, "OnPaymentSuccess");
    let order_details = vec![OrderDetail { product_id: 100, sku_id: 1, quantity: 2 }];
    assert_eq!(payment, OnPaymentSuccess { order_id: 1, order_details });
    let changes: Vec<_> = shop
        .published("OrderStatus")
        .iter()
        .map(|message| open::<OrderStatusChanged>(message).1)
        .map(|change| (change.order_id, change.seq, change.from_status, change.to_status))
        .collect();
    assert_eq!(changes, [(1, 1, 2, 3), (1, 2, 3, 4)]);
    shop.close().await;
}

async fn a_duplicate_callback_succeeds_and_writes_nothing(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[10, 0]).await;
    shop.place(1, &[(1, 1)]).await;
    shop.place(2, &[(2, 1)]).await;
    for (code, id, ends_in) in [("OC1", 1, 4), ("OC2", 2, 5)] {
        assert_eq!(shop.notify(code, "0000").await.unwrap(), success());
        shop.until_status(id, ends_in).await;
        let before = shop.order(id).await;
        for status_code in ["0000", "9999"] {
            assert_eq!(shop.notify(code, status_code).await.unwrap(), success());
        }
        assert_eq!(shop.order(id).await, before);
    }
    shop.settle().await;
    assert_eq!(shop.published("OrderEvent").len(), 2);
    assert_eq!(shop.published("OrderStatus").len(), 4);
    shop.close().await;
}

async fn a_hundred_concurrent_callbacks_for_one_order_pay_once(databases: Databases) {
    let shop = Arc::new(Shop::with_stock(&databases, &[1000]).await);
    shop.place(1, &[(1, 3)]).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let shop = shop.clone();
        calls.spawn(async move { shop.notify("OC1", "0000").await });
    }
    while let Some(reply) = calls.join_next().await {
        assert_eq!(reply.unwrap().unwrap(), success());
    }
    shop.until_status(1, 4).await;
    shop.settle().await;
    assert_eq!(shop.published("OrderEvent").len(), 1);
    assert_eq!(shop.stock(1).await, 997);
    Arc::into_inner(shop).unwrap().close().await;
}

/// Wire fault 9.18: a caller's headers, credentials among them, went into every event.
async fn client_headers_never_reach_an_event(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[10]).await;
    shop.place(1, &[(1, 1)]).await;
    let mut request = Request::new(PayNotifyRequest {
        out_trade_no: "OC1".into(),
        trade_no: "T1".into(),
        status_code: "0000".into(),
    });
    for (name, value) in
        [("authorization", "Bearer canary"), ("cookie", "canary"), ("pkey", "canary"), ("x-a", "canary")]
    {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    shop.client.clone().pay_notify(request).await.unwrap();
    shop.until_status(1, 4).await;
    shop.settle().await;
    for topic in ["OrderEvent", "ProductEvent", "OrderStatus"] {
        let messages = shop.published(topic);
        assert!(!messages.is_empty());
        for message in messages {
            assert!(!format!("{message:?}").contains("canary"), "{message:?}");
            assert_eq!(message.key.as_deref(), Some(&b"1"[..]));
        }
    }
    shop.close().await;
}

/// Wire fault 9.3: events left before the commit and stayed after a rollback.
async fn a_rolled_back_transaction_sends_nothing(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[10]).await;
    shop.place(1, &[(1, 1)]).await;
    let outbox = micro_core::outbox::Outbox::new(shop.orders.outbox(), "test", "0");
    let events = FailingEvents(OutboxOrderEvents::new(outbox, true));
    let retry = RetryPolicy { retry_count_max: 1, delay_initial: Duration::ZERO, delay_max: Duration::ZERO };
    let pay_notify = PayNotify::new(shop.orders.transactions(), SqlOrders::new(&shop.orders), retry);
    let payment = Payment::new("OC1".into(), "T1".into(), "0000".into()).unwrap();
    let failed = pay_notify.take(&events, &[payment]).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable);
    assert_eq!(shop.order(1).await, (2, 1, false, String::new()));
    assert_eq!(shop.orders.outbox().counts().await.unwrap(), OutboxCounts::default());
    // The order can still be paid, and only that payment is told.
    shop.notify("OC1", "0000").await.unwrap();
    shop.until_status(1, 4).await;
    shop.settle().await;
    assert_eq!(shop.published("OrderEvent").len(), 1);
    shop.close().await;
}

async fn the_use_case_says_what_became_of_a_callback(databases: Databases) {
    let shop = Shop::with_stock(&databases, &[0]).await;
    shop.place(1, &[(1, 1)]).await;
    let outbox = micro_core::outbox::Outbox::new(shop.orders.outbox(), "test", "0");
    let events = OutboxOrderEvents::new(outbox, true);
    let pay_notify = PayNotify::new(shop.orders.transactions(), SqlOrders::new(&shop.orders), RetryPolicy::default());
    let payment = |code: &str| Payment::new("OC1".into(), "T1".into(), code.into()).unwrap();
    let taken = async |payments: &[Payment]| -> Vec<PaymentOutcome> {
        pay_notify.take(&events, payments).await.unwrap().into_iter().map(Result::unwrap).collect()
    };
    assert!(matches!(taken(&[payment("9999")]).await[..], [PaymentOutcome::Declined(_)]));
    // Of one batch, in slice order.
    let outcomes = taken(&[payment("8888"), payment("0000"), payment("0000"), payment("9999")]).await;
    let [PaymentOutcome::Declined(_), PaymentOutcome::Accepted(_), rest @ ..] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(rest, [PaymentOutcome::Duplicate, PaymentOutcome::Duplicate]);
    assert_eq!(shop.order(1).await, (3, 1, false, String::new()));
    assert_eq!(taken(&[payment("0000")]).await, [PaymentOutcome::Duplicate]);
    shop.close().await;
}

/// Events that fail after they were written.
struct FailingEvents(OutboxOrderEvents);

impl OrderEvents for FailingEvents {
    async fn payments_succeeded(&self, tx: &mut Tx, accepted: &[AcceptedPayment]) -> Result<Vec<GoodsAnswer>> {
        self.0.payments_succeeded(tx, accepted).await?;
        Err(Error::new(ErrorKind::Unavailable, "test.payments_succeeded", "fails once it has written"))
    }

    async fn statuses_changed(&self, tx: &mut Tx, changes: &[StatusChange]) -> Result<()> {
        self.0.statuses_changed(tx, changes).await
    }
}
