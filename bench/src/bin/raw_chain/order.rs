//! The order service: callbacks in, payment events out, confirmations in.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bench::{
    Result,
    wire::{
        OnInventoryDeductSuccess, OnPaymentSuccess, OrderDetail, PayNotifyRequest, PayNotifyResponse,
        order_server::{Order, OrderServer},
    },
};
use prost::Message as _;
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::{Request, Response, Status};

use crate::{
    Arguments,
    inbox::{self, Handler, Received},
    outbox::{self, Event},
};

const GROUP: &str = "order-consumer";

pub(crate) async fn run(
    arguments: &Arguments,
    database: MySqlPool,
    wake: Arc<Notify>,
    stopped: impl Future<Output = ()>,
) -> Result<()> {
    let consumer = inbox::consumer(&arguments.kafka, GROUP, "ProductEvent")?;
    let consuming = tokio::spawn(inbox::consume(consumer, database.clone(), GROUP, arguments.batch, Confirm));
    let (sender, queue) = mpsc::channel(1_024);
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    for _ in 0..arguments.lanes {
        tokio::spawn(take_callbacks(database.clone(), wake.clone(), queue.clone()));
    }
    let server = tonic::transport::Server::builder()
        .add_service(OrderServer::new(Callbacks { queue: sender }))
        .serve_with_shutdown(arguments.listen.parse()?, stopped);
    tokio::select! {
        ended = server => Ok(ended?),
        ended = consuming => ended?,
    }
}

/// How many callbacks one transaction takes at most, and how many transactions run side by side.
const CALLBACK_COUNT_MAX: usize = 64;

type Answer = oneshot::Sender<std::result::Result<(), Status>>;

struct Callbacks {
    queue: mpsc::Sender<(String, Answer)>,
}

#[tonic::async_trait]
impl Order for Callbacks {
    async fn pay_notify(
        &self,
        request: Request<PayNotifyRequest>,
    ) -> std::result::Result<Response<PayNotifyResponse>, Status> {
        let request = request.into_inner();
        if request.out_trade_no.is_empty() {
            return Err(Status::invalid_argument("outTradeNo cannot be empty"));
        }
        let (answer, answered) = oneshot::channel();
        let gone = |_| Status::unavailable("stopping");
        self.queue.send((request.out_trade_no, answer)).await.map_err(|_| Status::unavailable("stopping"))?;
        answered.await.map_err(gone)??;
        Ok(Response::new(PayNotifyResponse { status_code: "0000".to_owned(), msg: "SUCCESS".to_owned() }))
    }
}

/// Takes the callbacks that wait, in one transaction.
async fn take_callbacks(
    database: MySqlPool,
    wake: Arc<Notify>,
    queue: Arc<tokio::sync::Mutex<mpsc::Receiver<(String, Answer)>>>,
) {
    loop {
        let mut waiting = Vec::with_capacity(CALLBACK_COUNT_MAX);
        if queue.lock().await.recv_many(&mut waiting, CALLBACK_COUNT_MAX).await == 0 {
            return;
        }
        let codes: Vec<&str> = waiting.iter().map(|(code, _)| code.as_str()).collect();
        match take(&database, &codes).await {
            Ok(known) => {
                wake.notify_one();
                for (code, answer) in waiting {
                    let outcome =
                        if known.contains(&code) { Ok(()) } else { Err(Status::not_found(format!("no order {code}"))) };
                    let _ = answer.send(outcome);
                }
            }
            Err(_) if waiting.len() > 1 => {
                // One of them spoils it for the others: each on its own.
                for (code, answer) in waiting {
                    let outcome = take(&database, &[&code]).await;
                    wake.notify_one();
                    let _ = answer.send(match outcome {
                        Ok(known) if known.is_empty() => Err(Status::not_found(format!("no order {code}"))),
                        Ok(_) => Ok(()),
                        Err(error) => Err(Status::unavailable(error.to_string())),
                    });
                }
            }
            Err(error) => {
                for (_, answer) in waiting {
                    let _ = answer.send(Err(Status::unavailable(error.to_string())));
                }
            }
        }
    }
}

/// An order's id, code and status, and a line's product, SKU and quantity.
type LineRow = (i64, String, i8, Option<i64>, Option<i64>, Option<i32>);

/// Answers the codes for which there is an order.
async fn take(database: &MySqlPool, codes: &[&str]) -> Result<HashSet<String>> {
    let mut tx = database.begin().await?;
    let mut select = QueryBuilder::<MySql>::new(
        "SELECT o.id, o.order_code, o.pay_status, d.product_id, d.sku_id, d.quantity \
         FROM orders o LEFT JOIN order_details d ON d.order_id = o.id AND d.deleted_at IS NULL \
         WHERE o.order_code IN (",
    );
    let mut list = select.separated(", ");
    codes.iter().for_each(|code| {
        list.push_bind(*code);
    });
    select.push(") AND o.deleted_at IS NULL ORDER BY o.id, d.id");
    let rows: Vec<LineRow> = select.build_query_as().fetch_all(&mut *tx).await?;
    let mut unpaid: BTreeMap<i64, Vec<OrderDetail>> = BTreeMap::new();
    for (id, _, _, product_id, sku_id, quantity) in rows.iter().filter(|row| row.2 <= 2) {
        let lines = unpaid.entry(*id).or_default();
        if let (Some(product_id), Some(sku_id), Some(quantity)) = (*product_id, *sku_id, *quantity) {
            lines.push(OrderDetail { product_id, sku_id, quantity: quantity.try_into()? });
        }
    }
    let known = rows.into_iter().map(|row| row.1).collect();
    if unpaid.is_empty() {
        return Ok(known);
    }
    let ids: Vec<i64> = unpaid.keys().copied().collect();
    let mut update = QueryBuilder::<MySql>::new(
        "UPDATE orders SET pay_status = 3, pay_error = '', updated_at = CURRENT_TIMESTAMP WHERE id IN (",
    );
    push_ids(&mut update, &ids);
    update.push(") AND pay_status <= 2 AND deleted_at IS NULL");
    if update.build().execute(&mut *tx).await?.rows_affected() != ids.len() as u64 {
        return Err("another callback was quicker".into());
    }
    let events: Vec<Event> = unpaid
        .into_iter()
        .map(|(order_id, order_details)| {
            let event = OnPaymentSuccess { order_id, order_details };
            Event::new("OrderEvent", "OnPaymentSuccess", order_id, &event)
        })
        .collect();
    outbox::add(&mut tx, &events).await?;
    tx.commit().await?;
    Ok(known)
}

/// Confirms what was deducted, fails what was refused.
struct Confirm;

impl Handler for Confirm {
    async fn handle(&self, tx: &mut MySqlConnection, events: &[&Received]) -> Result<()> {
        for (event_type, change) in [
            ("OnInventoryDeductSuccess", "pay_status = 4, ship_status = 2, pay_time = CURRENT_TIMESTAMP"),
            ("OnPaymentRefused", "pay_status = 5, ship_status = 1, pay_error = 'refused'"),
        ] {
            let of_type = events.iter().filter(|event| event.event_type == event_type);
            let ids: Vec<i64> = of_type
                .map(|event| Ok(OnInventoryDeductSuccess::decode(event.payload.as_slice())?.order_id))
                .collect::<Result<_>>()?;
            if !ids.is_empty() {
                change_status(tx, &ids, change).await?;
            }
        }
        Ok(())
    }
}

async fn change_status(tx: &mut MySqlConnection, ids: &[i64], change: &str) -> Result<()> {
    let mut select = QueryBuilder::<MySql>::new("SELECT id, pay_status FROM orders WHERE id IN (");
    push_ids(&mut select, ids);
    let states: Vec<(i64, i8)> = select.push(") AND deleted_at IS NULL").build_query_as().fetch_all(&mut *tx).await?;
    let open: Vec<i64> = states.into_iter().filter(|(_, status)| *status == 3).map(|(id, _)| id).collect();
    if open.is_empty() {
        return Ok(());
    }
    let mut update = QueryBuilder::<MySql>::new("UPDATE orders SET ");
    update.push(change).push(", updated_at = CURRENT_TIMESTAMP WHERE id IN (");
    push_ids(&mut update, &open);
    update.push(") AND pay_status = 3 AND deleted_at IS NULL");
    if update.build().execute(tx).await?.rows_affected() != open.len() as u64 {
        return Err("an order changed meanwhile".into());
    }
    Ok(())
}

fn push_ids(query: &mut QueryBuilder<MySql>, ids: &[i64]) {
    let mut separated = query.separated(", ");
    ids.iter().for_each(|id| {
        separated.push_bind(*id);
    });
}
