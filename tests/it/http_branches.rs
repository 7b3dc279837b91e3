//! A participant that DTM calls over HTTP, as an ordinary axum service.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Query, State},
    http::{Request, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use micro_rs::{
    core::{
        barrier::{Barrier, BarrierExt as _, BarrierStore as _},
        branch::{Branch, BranchError, HttpAnswer},
    },
    prelude::{Error, ErrorKind},
    tx::{SqlBarrier, SqlDatabase, SqlTxExt as _},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

struct Busi {
    database: SqlDatabase,
    barrier: SqlBarrier,
}

type Parts = Query<HashMap<String, String>>;

/// All that axum needs to know of an answer.
fn response(answer: HttpAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap();
    (status, [(CONTENT_TYPE, "application/json")], answer.body).into_response()
}

async fn trans_out(State(busi): State<Arc<Busi>>, Query(parts): Parts, body: String) -> Response {
    let branch = match Branch::read(|part| parts.get(part).cloned()) {
        Ok(branch) => branch,
        Err(error) => return response(HttpAnswer::of::<()>("TransOut", None, Err(error.into()))),
    };
    let mut barrier = Barrier::new(branch.clone());
    let paid = busi.database.run_with_barrier(&busi.barrier, &mut barrier, async |tx| {
        match body.as_str() {
            "poor" => return Err(BranchError::failed("no money, says the ONGOING FAILURE department")),
            "busy" => return Err(BranchError::Ongoing),
            "away" => return Err(Error::new(ErrorKind::Unavailable, "bank.pay", "no FAILURE, just away").into()),
            _ => {}
        }
        tx.sql()?.execute("UPDATE accounts SET balance = balance - 30", &[]).await?;
        Ok(())
    });
    let outcome = paid.await.map(|_| json!({ "note": body }));
    response(HttpAnswer::of("TransOut", branch.as_ref(), outcome))
}

async fn query_prepared(State(busi): State<Arc<Busi>>, Query(parts): Parts) -> Response {
    let branch = match Branch::read(|part| parts.get(part).cloned()) {
        Ok(Some(branch)) => branch,
        _ => return StatusCode::BAD_REQUEST.into_response(),
    };
    let answer = match busi.barrier.prepared(&branch.gid).await {
        Ok(prepared) => prepared.answer(),
        Err(error) => Err(error.into()),
    };
    response(HttpAnswer::of("QueryPrepared", Some(&branch), answer))
}

struct Service {
    router: Router,
    busi: Arc<Busi>,
    _folder: tempfile::TempDir,
}

impl Service {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("bank.db").display());
        let database = SqlDatabase::connect_url(&url).await.unwrap();
        let barrier = database.barrier();
        barrier.create_table().await.unwrap();
        let accounts = "CREATE TABLE accounts (balance INTEGER NOT NULL); INSERT INTO accounts VALUES (100)";
        database.execute_script(accounts).await.unwrap();
        let busi = Arc::new(Busi { database, barrier });
        let router = Router::new()
            .route("/api/TransOut", post(trans_out))
            .route("/api/QueryPrepared", get(query_prepared))
            .with_state(busi.clone());
        Self { router, busi, _folder: folder }
    }

    /// Status and body of a call with the path and headers that DTM's server sent.
    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_owned()))
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn balance(&self) -> i64 {
        let row = self.busi.database.fetch_optional("SELECT balance FROM accounts", &[]).await.unwrap();
        row.unwrap().get(0).unwrap()
    }
}

const ACTION: &str = "/api/TransOut?branch_id=01&gid=probe-h-saga&op=action&trans_type=saga";

#[tokio::test]
async fn a_branch_over_http_takes_effect_once_and_its_answer_is_read_as_it_is_meant() {
    let service = Service::start().await;
    for _ in 0..2 {
        let (status, body) = service.call("POST", ACTION, "state before: FAILURE, after: ONGOING").await;
        // DTM would roll back for the one word, and ask again for the other.
        assert!(status == 200 && !body.contains("FAILURE") && !body.contains("ONGOING"), "{status} {body}");
        let read: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(read["note"], "state before: FAILURE, after: ONGOING");
    }
    assert_eq!(service.balance().await, 70);
}

#[tokio::test]
async fn each_outcome_over_http_has_its_status_and_words() {
    let service = Service::start().await;
    for (body, status, words) in
        [("poor", 409, &["FAILURE", "no money"][..]), ("busy", 425, &["ONGOING"]), ("away", 500, &["bank.pay"])]
    {
        let (found, text) = service.call("POST", ACTION, body).await;
        assert_eq!(found, status, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        // Its first word decides, whatever the status.
        assert_eq!(text.contains("ONGOING"), status == 425, "{text}");
        assert_eq!(text.contains("FAILURE"), status == 409, "{text}");
    }
    assert_eq!(service.balance().await, 100, "none of them took effect");
}

#[tokio::test]
async fn who_asks_after_a_message_over_http_is_told() {
    let service = Service::start().await;
    let path = "/api/QueryPrepared?branch_id=00&dtm=http%3A%2F%2F127.0.0.1%3A46801%2Fapi%2Fdtmsvr&gid=m1&op=msg&trans_type=msg";
    let (status, body) = service.call("GET", path, "").await;
    assert!(status == 409 && body.contains("FAILURE"), "{status} {body}");

    let paying = "/api/TransOut?branch_id=00&gid=m2&op=msg&trans_type=msg";
    assert_eq!(service.call("POST", paying, "rent").await.0, 200);
    let (status, body) = service.call("GET", &path.replace("gid=m1", "gid=m2"), "").await;
    assert_eq!((status, body.as_str()), (200, r#"{"dtm_result":"SUCCESS"}"#));
}

#[tokio::test]
async fn a_call_over_http_with_a_part_missing_is_told_which() {
    let service = Service::start().await;
    let (status, body) = service.call("POST", "/api/TransOut?gid=g&op=action", "rent").await;
    assert!(status == 500 && body.contains("missing=trans_type,branch_id"), "{status} {body}");
    assert_eq!(service.balance().await, 100);
}
