//! What the Go order service answered when it was asked, and a Rust server with its methods.

use std::{fs, path::Path};

use micro_core::registry::MemoryRegistry;
use micro_grpc::{GoMicroConfig, GrpcServer, StatusCompat};
use serde_json::Value;
use tonic::{Code, Request, Response, Status};

use super::{
    protos::{
        DESCRIPTORS,
        order::{
            OrderId, OrderInfo, PayNotifyRequest, PayNotifyResponse,
            order_server::{self, OrderServer},
        },
    },
    raw::{Answer, exchange, frame, unary},
};
use crate::fixture::{Running, run};

/// Answers and fails as the Go service does with the orders it was asked for.
struct Order;

#[tonic::async_trait]
impl order_server::Order for Order {
    async fn get_order_by_id(&self, request: Request<OrderId>) -> Result<Response<OrderInfo>, Status> {
        match request.into_inner().order_id {
            99 => Err(Status::data_loss("record not found")),
            id => Ok(Response::new(OrderInfo { id, ..OrderInfo::default() })),
        }
    }

    async fn pay_notify(&self, request: Request<PayNotifyRequest>) -> Result<Response<PayNotifyResponse>, Status> {
        match request.into_inner().out_trade_no.as_str() {
            "" => Err(Status::invalid_argument("outTradeNo cannot be empty")),
            "NONE" => Err(Status::aborted("record not found")),
            _ => Ok(Response::new(PayNotifyResponse { status_code: "0000".into(), msg: "SUCCESS".into() })),
        }
    }
}

async fn serve() -> (Running, String) {
    let server = GrpcServer::builder("go.micro.service.Order")
        .add_service(OrderServer::new(Order))
        .descriptors(DESCRIPTORS.clone())
        .go_micro(GoMicroConfig::default().with_status_compat(StatusCompat::V4));
    let running = run(server.build().unwrap(), &MemoryRegistry::new()).await;
    let address = running.server.local_addr().unwrap().to_string();
    (running, address)
}

fn recorded(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/order-product").join(name)).unwrap()
}

/// A status as Go prints it.
fn printed(status: &Status) -> String {
    match status.code() {
        Code::Ok => "<nil>".to_owned(),
        code => format!("rpc error: code = {code:?} desc = {}", status.message()),
    }
}

/// The bytes of a Go string in quotes.
fn unquoted(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            bytes.extend(character.to_string().as_bytes());
            continue;
        }
        match rest.next().unwrap() {
            'n' => bytes.push(b'\n'),
            'a' => bytes.push(7),
            'x' => {
                let digits: String = [rest.next().unwrap(), rest.next().unwrap()].iter().collect();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            other => bytes.extend(other.to_string().as_bytes()),
        }
    }
    bytes
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    text.split_once(begin).unwrap().1.split_once(end).unwrap().0
}

#[tokio::test]
async fn content_types_are_answered_as_the_go_service_answered_them() {
    let (_running, address) = serve().await;
    let recorded = recorded("content-type-probe.txt");
    let mut seen = Vec::new();
    for line in recorded.lines().filter(|line| line.starts_with("subtype=")) {
        let subtype = between(line, "subtype=\"", "\"");
        let content_type =
            if subtype.is_empty() { "application/grpc".into() } else { format!("application/grpc+{subtype}") };
        let message: &[u8] = if subtype == "json" { br#"{"OutTradeNo":"OC1"}"# } else { b"\x0a\x03OC1" };
        let answer = unary(&address, "/Order/PayNotify", &[("content-type", &content_type)], message).await;
        assert_eq!(printed(&answer.status()), between(line, "err=", " hdr="), "{subtype:?}");
        assert_eq!(answer.content_type(), between(line, "content-type:[", "]"), "{subtype:?}");
        let out = unquoted(line.split_once("out=\"").unwrap().1.strip_suffix('"').unwrap());
        assert_eq!(answer.data, if out.is_empty() { Vec::new() } else { frame(&out) }, "{subtype:?}");
        seen.push(subtype);
    }
    assert_eq!(seen, ["", "proto", "json", "bytes", "dtm_raw", "foo"]);
}

#[tokio::test]
async fn paths_are_answered_as_the_go_service_answered_them() {
    let (_running, address) = serve().await;
    let recorded = recorded("content-type-probe.txt");
    let lines: Vec<_> = recorded.lines().filter(|line| line.starts_with('/')).collect();
    assert_eq!(lines.len(), 4);
    for (path, outcome) in lines.into_iter().map(|line| line.split_once(' ').unwrap()) {
        assert_eq!(printed(&unary(&address, path, &[], b"\x0a\x03OC1").await.status()), outcome, "{path}");
    }
}

#[tokio::test]
async fn the_go_clients_recorded_calls_are_answered_as_the_go_service_did() {
    let (_running, address) = serve().await;
    let recorded = recorded("gomicro-client-call.jsonl");
    let lines: Vec<Value> = recorded.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for pair in lines.chunks(2) {
        let (asked, answered) = (&pair[0], &pair[1]);
        let headers: Vec<_> = asked["md"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.as_str(), value[0].as_str().unwrap()))
            .collect();
        let headers: Vec<_> = headers.into_iter().filter(|(name, _)| !name.starts_with(':')).collect();
        let answer =
            exchange(&address, asked["method"].as_str().unwrap(), &headers, &[frame(&bytes(&asked["body"]))], true)
                .await;
        assert_eq!(printed(&answer.status()), answered["err"].as_str().unwrap());
        let body = bytes(&answered["body"]);
        assert_eq!(answer.data, if body.is_empty() { Vec::new() } else { frame(&body) });
        let of_answer = answered["hdr"].as_object().or(answered["trailer"].as_object()).unwrap();
        assert_eq!(answer.content_type(), of_answer["content-type"][0].as_str().unwrap());
    }
}

fn bytes(base64: &Value) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64.as_str().unwrap_or_default()).unwrap()
}

#[tokio::test]
async fn failures_are_those_that_grpcurl_showed_of_the_go_service() {
    let (_running, address) = serve().await;
    let recorded = recorded("grpcurl-cases.txt");
    let case = |title: &str| {
        let text = recorded.split("## ").find(|case| case.starts_with(title)).unwrap();
        text.contains("ERROR").then(|| {
            let code = between(text, "Code: ", "\n");
            let message = between(text, "Message: ", "\n");
            format!("rpc error: code = {code} desc = {message}")
        })
    };
    let asked: [(&str, &str, &[u8]); 4] = [
        ("empty OutTradeNo", "/go.micro.service.Order/PayNotify", b""),
        ("unknown order", "/go.micro.service.Order/PayNotify", b"\x0a\x04NONE"),
        ("GetOrderById 99", "/go.micro.service.Order/GetOrderById", &[8, 99]),
        ("other package prefix", "/foo.bar.Order/PayNotify", b"\x0a\x03OC1"),
    ];
    for (title, path, message) in asked {
        let answer: Answer = unary(&address, path, &[], message).await;
        assert_eq!(printed(&answer.status()), case(title).unwrap_or_else(|| "<nil>".to_owned()), "{title}");
    }
}
