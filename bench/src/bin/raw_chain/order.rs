//! The order service: callbacks in, payment events out, confirmations in.

use std::sync::Arc;

use bench::{
    Result,
    wire::{
        OnInventoryDeductSuccess, OnPaymentSuccess, OrderDetail, PayNotifyRequest, PayNotifyResponse,
        order_server::{Order, OrderServer},
    },
};
use prost::Message as _;
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};
use tokio::sync::Notify;
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
    let server = tonic::transport::Server::builder()
        .add_service(OrderServer::new(Callbacks { database, wake }))
        .serve_with_shutdown(arguments.listen.parse()?, stopped);
    tokio::select! {
        ended = server => Ok(ended?),
        ended = consuming => ended?,
    }
}

struct Callbacks {
    database: MySqlPool,
    wake: Arc<Notify>,
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
        self.take(&request.out_trade_no).await.map_err(|error| Status::unavailable(error.to_string()))?;
        self.wake.notify_one();
        Ok(Response::new(PayNotifyResponse { status_code: "0000".to_owned(), msg: "SUCCESS".to_owned() }))
    }
}

impl Callbacks {
    async fn take(&self, code: &str) -> Result<()> {
        let mut tx = self.database.begin().await?;
        let select = "SELECT id, order_code, user_id, pay_status, ship_status, pay_error, CAST(price AS CHAR) \
                      FROM orders WHERE order_code = ? AND deleted_at IS NULL";
        let order: Option<(i64, String, i64, i8, i8, String, String)> =
            sqlx::query_as(select).bind(code).fetch_optional(&mut *tx).await?;
        let Some((id, _, _, status, ..)) = order else { return Err(format!("no order {code}").into()) };
        let select = "SELECT id, product_id, sku_id, quantity, CAST(unit_price AS CHAR) FROM order_details \
                      WHERE order_id = ? AND deleted_at IS NULL ORDER BY id";
        let lines: Vec<(i64, i64, i64, i32, String)> = sqlx::query_as(select).bind(id).fetch_all(&mut *tx).await?;
        if status > 2 {
            return Ok(());
        }
        let update = "UPDATE orders SET pay_status = 3, pay_error = '', updated_at = CURRENT_TIMESTAMP \
                      WHERE id = ? AND pay_status <= 2 AND deleted_at IS NULL";
        if sqlx::query(update).bind(id).execute(&mut *tx).await?.rows_affected() != 1 {
            return Err("another callback was quicker".into());
        }
        let details = lines.into_iter().map(|(_, product_id, sku_id, quantity, _)| OrderDetail {
            product_id,
            sku_id,
            quantity: quantity.try_into().unwrap_or_default(),
        });
        let event = OnPaymentSuccess { order_id: id, order_details: details.collect() };
        outbox::add(&mut tx, &[Event::new("OrderEvent", "OnPaymentSuccess", id, &event)]).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Confirms what was deducted, fails what was refused.
struct Confirm;

impl Handler for Confirm {
    async fn handle(&self, tx: &mut MySqlConnection, events: &[Received]) -> Result<()> {
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
