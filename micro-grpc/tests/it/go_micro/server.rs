//! go-micro v4's client calls a Rust server.

use std::sync::{Arc, Mutex};

use micro_core::ErrorKind;
use micro_grpc::{GoMicroConfig, StatusCompat};
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto};
use serde_json::{Value, json};
use tonic::{Code, body::Body, server::NamedService};
use tower::util::MapRequestLayer;

use super::{
    greeter::{Greeter, SERVICE, builder, detail_types, serve, started, started_server},
    peer::{call, peer},
    protos::{DESCRIPTORS, peer::greeter_server},
    raw::unary,
};

/// `name: "micro"`.
const MICRO: &[u8] = b"\x0a\x05micro";
/// `greeting: "Hello micro"`.
const HELLO_MICRO: &[u8] = b"\x0a\x0bHello micro";

fn fail(how: &str, code: u32) -> String {
    json!({"how": how, "code": code, "detail": "no such thing"}).to_string()
}

fn error(code: i64, status: &str) -> Value {
    json!({"id": SERVICE, "code": code, "detail": "no such thing", "status": status})
}

#[tokio::test]
async fn any_prefix_of_the_service_reaches_it_and_its_own_path_too() {
    let (_running, address) = serve(StatusCompat::Real).await;
    for service in ["peer.Greeter", "go.micro.service.greeter.Greeter", "Greeter", "a.b.c.Greeter", ".Greeter"] {
        let answer = unary(&address, &format!("/{service}/Hello"), &[], MICRO).await;
        assert_eq!(answer.message(), HELLO_MICRO, "{service}");
        assert_eq!(answer.content_type(), "application/grpc");
    }
}

#[tokio::test]
async fn layers_see_a_methods_own_path_whatever_its_caller_said() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let note = MapRequestLayer::new(move |request: http::Request<Body>| {
        noted.lock().unwrap().push(request.uri().path().to_owned());
        request
    });
    let server = builder().descriptors(DESCRIPTORS.clone()).go_micro(GoMicroConfig::default()).layer(note);
    let (_running, address) = started_server(server.build().unwrap()).await;
    for (path, own) in [
        ("/peer.Greeter/Hello", "/peer.Greeter/Hello"),
        ("/go.micro.service.greeter.Greeter/Hello", "/peer.Greeter/Hello"),
        ("/Greeter/Hello", "/peer.Greeter/Hello"),
        // What is refused is seen as well; a path that is none has no name that could fill a table.
        ("/x.Greeter/Nope", "/x.Greeter/Nope"),
        ("/a/b/c", "/"),
    ] {
        unary(&address, path, &[], MICRO).await;
        assert_eq!(seen.lock().unwrap().pop().unwrap(), own, "{path}");
    }
}

#[tokio::test]
async fn other_paths_are_refused_with_gos_texts() {
    for status_compat in [StatusCompat::Real, StatusCompat::V4] {
        let (_running, address) = serve(status_compat).await;
        for (path, code, text) in [
            ("/go.micro.service.greeter.Greeter/Nope", Code::Unimplemented, "unknown service Greeter.Nope"),
            ("/peer.Greeter/hello", Code::Unimplemented, "unknown service Greeter.hello"),
            ("/go.micro.service.Nope/X", Code::Unimplemented, "unknown service Nope"),
            ("/greeter/Hello", Code::Unimplemented, "unknown service greeter"),
            ("/x.Health/Check", Code::Unimplemented, "unknown service Health"),
            ("/a/b/c", Code::InvalidArgument, "malformed method name: \"/a/b/c\""),
            ("/Greeter", Code::InvalidArgument, "malformed method name: \"/Greeter\""),
            ("//Hello", Code::InvalidArgument, "malformed method name: \"//Hello\""),
            ("/Greeter/", Code::InvalidArgument, "malformed method name: \"/Greeter/\""),
        ] {
            let status = unary(&address, path, &[], MICRO).await.status();
            assert_eq!((status.code(), status.message()), (code, text));
            assert!(status.details().is_empty());
        }
    }
}

#[tokio::test]
async fn a_name_that_two_services_have_is_reached_by_their_own_paths_alone() {
    let other = Other(greeter_server::GreeterServer::new(Greeter::default()));
    let server = builder().add_service(other).descriptors(DESCRIPTORS.clone()).descriptors(descriptors_of_other());
    let (_running, address) = started(server.go_micro(GoMicroConfig::default())).await;
    for path in ["/peer.Greeter/Hello", "/other.Greeter/Hello"] {
        assert_eq!(unary(&address, path, &[], MICRO).await.message(), HELLO_MICRO, "{path}");
    }
    let status = unary(&address, "/go.micro.service.greeter.Greeter/Hello", &[], MICRO).await.status();
    assert_eq!(status.code(), Code::Unimplemented);
    let text = "unknown service Greeter: several services have this name, expected other.Greeter or peer.Greeter";
    assert_eq!(status.message(), text);
}

/// `other.Greeter`, of a file that uses the messages of `peer`.
fn descriptors_of_other() -> Vec<u8> {
    let method = MethodDescriptorProto {
        name: Some("Hello".to_owned()),
        input_type: Some(".peer.HelloRequest".to_owned()),
        output_type: Some(".peer.HelloReply".to_owned()),
        ..Default::default()
    };
    let service =
        ServiceDescriptorProto { name: Some("Greeter".to_owned()), method: vec![method], ..Default::default() };
    let file = FileDescriptorProto {
        name: Some("other.proto".to_owned()),
        package: Some("other".to_owned()),
        dependency: vec!["greeter.proto".to_owned()],
        service: vec![service],
        syntax: Some("proto3".to_owned()),
        ..Default::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}

/// The greeter by another service's name.
#[derive(Clone)]
struct Other(greeter_server::GreeterServer<Greeter>);

impl NamedService for Other {
    const NAME: &'static str = "other.Greeter";
}

impl tower::Service<http::Request<Body>> for Other {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = <greeter_server::GreeterServer<Greeter> as tower::Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        tower::Service::<http::Request<Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        *request.uri_mut() = request.uri().path().replace("other.", "peer.").parse().unwrap();
        self.0.call(request)
    }
}

#[tokio::test]
async fn gos_client_calls_and_reads_failures_of_each_kind() {
    if peer().await.is_none() {
        return;
    }
    let (_running, address) = serve(StatusCompat::Real).await;
    let said = call(&address, &["--message", r#"{"name":"micro"}"#, "--count", "3"]).await;
    assert_eq!(said, vec![json!({"reply": {"greeting": "Hello micro"}}); 3]);

    // Code of the gRPC status, and what Go's client makes of it.
    for (code, number, text) in [
        (3, 400, "Bad Request"),
        (4, 408, "Request Timeout"),
        (5, 404, "Not Found"),
        (6, 409, "Conflict"),
        (7, 403, "Forbidden"),
        (9, 412, "Precondition Failed"),
        (10, 500, "Internal Server Error"),
        (12, 501, "Not Implemented"),
        (13, 500, "Internal Server Error"),
        (14, 503, "Service Unavailable"),
        (16, 401, "Unauthorized"),
    ] {
        let said = call(&address, &["--endpoint", "Greeter.Fail", "--message", &fail("status", code)]).await;
        assert_eq!(said[0]["error"], error(number, text), "{code}");
    }
    let said = call(&address, &["--endpoint", "Greeter.Fail", "--message", &fail("micro", 418)]).await;
    assert_eq!(said[0]["error"], error(418, "I'm a teapot"));
    let said = call(&address, &["--endpoint", "Greeter.Fail", "--message", &fail("panic", 0)]).await;
    assert_eq!((&said[0]["error"]["id"], &said[0]["error"]["code"]), (&json!("go.micro.server"), &json!(500)));
    let said = call(&address, &["--endpoint", "Greeter.Nope"]).await;
    assert_eq!(said[0]["error"]["code"], 501);
    assert_eq!(said[0]["error"]["detail"], "unknown service Greeter.Nope");
}

#[tokio::test]
async fn as_v4_gos_client_reads_the_flattened_text() {
    if peer().await.is_none() {
        return;
    }
    let (_running, address) = serve(StatusCompat::V4).await;
    let said = call(&address, &["--endpoint", "Greeter.Fail", "--message", &fail("status", 9)]).await;
    let detail = "rpc error: code = FailedPrecondition desc = no such thing";
    let expected = json!({"id": "go.micro.client", "code": 500, "detail": detail, "status": "Internal Server Error"});
    assert_eq!(said[0]["error"], expected);
}

#[tokio::test]
async fn a_failure_keeps_its_code_and_its_first_detail_is_go_micros() {
    let (_running, address) = serve(StatusCompat::Real).await;
    // how = "foreign", code = 10, detail = "no"
    let message = [&[8, 10, 18, 2][..], b"no", &[26, 7], b"foreign"].concat();
    let status = unary(&address, "/Greeter/Fail", &[], &message).await.status();
    assert_eq!(status.code(), Code::Aborted);
    let names = ["errors.Error", "google.rpc.ErrorInfo"].map(|name| format!("type.googleapis.com/{name}"));
    assert_eq!(detail_types(status.details()), names);
    let error = micro_grpc::from_status("greet", status);
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Aborted, "greet: no (id=go.micro.service.greeter, code=500)")
    );
}

/// A branch in Go that calls on with its own context passes `dtm-gid` along, so the call may be Go's.
#[tokio::test]
async fn a_branchs_failure_keeps_code_and_text_and_no_detail_that_ends_gos_client() {
    for status_compat in [StatusCompat::Real, StatusCompat::V4] {
        let (_running, address) = serve(status_compat).await;
        let metadata = [("dtm-gid", "g"), ("dtm-trans_type", "saga"), ("dtm-branch_id", "01"), ("dtm-op", "action")];
        for (how, types) in [("foreign", &[][..]), ("micro", &["type.googleapis.com/errors.Error"])] {
            // code = 10, detail = "no"
            let message = [&[8, 10, 18, 2][..], b"no", &[26, how.len() as u8], how.as_bytes()].concat();
            let status = unary(&address, "/Greeter/Fail", &metadata, &message).await.status();
            assert_eq!(detail_types(status.details()), types, "{how}");
            if how == "foreign" {
                assert_eq!((status.code(), status.message()), (Code::Aborted, "no"));
            }
        }
    }
}

#[tokio::test]
async fn a_branch_in_go_that_calls_on_survives_a_foreign_detail() {
    if peer().await.is_none() {
        return;
    }
    let (_running, address) = serve(StatusCompat::Real).await;
    let asked = ["--endpoint", "Greeter.Fail", "--message", &fail("foreign", 9), "--metadata", "Dtm-Gid=g"];
    let said = call(&address, &asked).await;
    let expected =
        json!({"id": "go.micro.client", "code": 412, "detail": "no such thing", "status": "Precondition Failed"});
    assert_eq!(said[0]["error"], expected);
}

#[tokio::test]
async fn metadata_and_deadline_arrive() {
    if peer().await.is_none() {
        return;
    }
    let (_running, address) = serve(StatusCompat::Real).await;
    let asked = ["--endpoint", "Greeter.Inspect", "--metadata", "X-Peer_Trace=abc"];
    let reply = call(&address, &asked).await.remove(0)["reply"].clone();
    assert_eq!(reply["metadata"]["x-peer_trace"], "abc");
    for name in ["timeout", "x-content-type", "content-type"] {
        assert_eq!(reply["metadata"].get(name), None, "{name}");
    }
    let left = |reply: &Value| reply["timeoutMs"].as_str().unwrap().parse::<i64>().unwrap();
    assert!((20_001..=30_000).contains(&left(&reply)), "{reply}");
    let reply = call(&address, &[&asked[..], &["--timeout", "20s"]].concat()).await.remove(0)["reply"].clone();
    assert!((1_000..=20_000).contains(&left(&reply)), "{reply}");
}

#[tokio::test]
async fn a_call_ends_at_the_time_limit_in_nanoseconds() {
    let (_running, address) = serve(StatusCompat::Real).await;
    let hour = [0x08, 0x80, 0xdd, 0xdb, 0x01];
    // The smaller of the two counts.
    for headers in [&[("timeout", "50000000")][..], &[("timeout", "50000000"), ("grpc-timeout", "3000S")]] {
        let began = std::time::Instant::now();
        let status = unary(&address, "/Greeter/Wait", headers, &hour).await.status();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(began.elapsed() < std::time::Duration::from_secs(30));
    }
    let headers = [("timeout", "3000000000000"), ("grpc-timeout", "50m")];
    assert_eq!(unary(&address, "/Greeter/Wait", &headers, &hour).await.status().code(), Code::DeadlineExceeded);
    let status = unary(&address, "/Greeter/Wait", &[("timeout", "0")], &hour).await.status();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    // What is no number is ignored, as Go's server does.
    let answer = unary(&address, "/Greeter/Hello", &[("timeout", "soon")], MICRO).await;
    assert_eq!(answer.message(), HELLO_MICRO);
}

#[tokio::test]
async fn gos_client_is_told_of_its_deadline() {
    if peer().await.is_none() {
        return;
    }
    let (_running, address) = serve(StatusCompat::Real).await;
    let wait = ["--endpoint", "Greeter.Wait", "--message", r#"{"wait_ms":120000}"#];
    for limit in ["--timeout", "--request-timeout"] {
        let said = call(&address, &[&wait[..], &[limit, "200ms"]].concat()).await;
        assert_eq!(said[0]["error"]["code"], 408, "{limit}");
        assert!(said[0]["after_ms"].as_u64().unwrap() < 30_000);
    }
}

#[tokio::test]
async fn a_server_without_go_micro_takes_its_own_paths_alone() {
    let (_running, address) = started(builder()).await;
    assert_eq!(unary(&address, "/peer.Greeter/Hello", &[], MICRO).await.message(), HELLO_MICRO);
    let status = unary(&address, "/x.Greeter/Hello", &[], MICRO).await.status();
    assert_eq!(status.code(), Code::Unimplemented);
}
