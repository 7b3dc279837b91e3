//! The service itself: its routes, its own SQL, what it tells. Lines that end in `micro-rs` are there
//! for the outbox.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use micro_core::{Error, TransactionManagerExt as _};
use micro_tx::SqlTxExt as _;
use serde::{Deserialize, Serialize};
use sqlx::{SqlitePool, error::ErrorKind};

use crate::events::Events;

/// An order was placed: what the service tells others, in protobuf.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OrderPlaced {
    /// The order.
    #[prost(int64, tag = "1")]
    pub order_id: i64,
    /// What was ordered.
    #[prost(string, tag = "2")]
    pub sku: String,
    /// How many.
    #[prost(int64, tag = "3")]
    pub quantity: i64,
}

/// What a customer sends.
#[derive(Deserialize)]
struct NewOrder {
    sku: String,
    quantity: i64,
}

/// What a customer gets.
#[derive(Serialize, sqlx::FromRow)]
struct Order {
    id: i64,
    sku: String,
    quantity: i64,
}

/// What the handlers share.
#[derive(Clone)]
struct Shop {
    pool: SqlitePool,
    events: Arc<Events>, // micro-rs
}

/// The service's routes.
pub fn routes(pool: SqlitePool, events: Arc<Events>) -> Router {
    Router::new().route("/orders", post(place)).route("/orders/{id}", get(find)).with_state(Shop { pool, events })
}

/// The order, its event and the stock it takes, in one transaction.
async fn place(State(shop): State<Shop>, Json(new): Json<NewOrder>) -> Result<(StatusCode, Json<Order>), Refusal> {
    let Events { database, outbox, .. } = &*shop.events; // micro-rs
    // Without an outbox it would be sqlx's `pool.begin()`, and `commit()` at the end.
    let order = database
        .run(async |tx| {
            let connection = tx.sql()?.as_sqlite().expect("the pool is one of SQLite"); // micro-rs
            let insert = "INSERT INTO orders (sku, quantity) VALUES (?, ?) RETURNING id, sku, quantity";
            let order: Order =
                sqlx::query_as(insert).bind(&new.sku).bind(new.quantity).fetch_one(&mut *connection).await?;
            let event = OrderPlaced { order_id: order.id, sku: order.sku.clone(), quantity: order.quantity };
            outbox.add(tx, &event).await?; // micro-rs

            // Out of stock, this breaks the table's rule, and the order and its event never were.
            let connection = tx.sql()?.as_sqlite().expect("the pool is one of SQLite"); // micro-rs
            let take = "UPDATE stock SET quantity = quantity - ? WHERE sku = ?";
            sqlx::query(take).bind(order.quantity).bind(&order.sku).execute(connection).await?;
            Ok::<_, Refusal>(order)
        })
        .await?;
    Ok((StatusCode::CREATED, Json(order)))
}

/// A read needs nothing of micro-rs.
async fn find(State(shop): State<Shop>, Path(id): Path<i64>) -> Result<Json<Order>, Refusal> {
    let select = "SELECT id, sku, quantity FROM orders WHERE id = ?";
    Ok(Json(sqlx::query_as(select).bind(id).fetch_one(&shop.pool).await?))
}

/// Why a customer does not get what it asked for.
enum Refusal {
    /// The customer's fault.
    Customer(StatusCode, &'static str),
    /// Ours.
    Service(Box<dyn std::error::Error + Send + Sync>),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error().map(sqlx::error::DatabaseError::kind) {
            Some(ErrorKind::CheckViolation) => Self::Customer(StatusCode::CONFLICT, "out of stock"),
            Some(ErrorKind::ForeignKeyViolation) => Self::Customer(StatusCode::NOT_FOUND, "no such article"),
            None if matches!(error, sqlx::Error::RowNotFound) => Self::Customer(StatusCode::NOT_FOUND, "no such order"),
            _ => Self::Service(error.into()),
        }
    }
}

// Without micro-rs nothing here fails with its error.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Service(error.into()) // micro-rs
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Customer(status, message) => (status, message).into_response(),
            Self::Service(error) => {
                tracing::error!(%error, "an order was not placed or not found");
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
        }
    }
}
