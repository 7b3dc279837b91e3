//! Content types: which are taken, what comes back, and protobuf messages as JSON.

use micro_grpc::StatusCompat;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;

use super::{
    greeter::serve,
    peer::{GoServer, call, peer},
    protos::peer::{Colour, Everything, HelloRequest, everything::Choice},
    raw::{Answer, exchange, frame, unary},
};

const JSON: [(&str, &str); 1] = [("content-type", "application/grpc+json")];
const ECHO: &str = "/go.micro.service.greeter.Greeter/Echo";

/// A message with a value in every field, and its JSON.
fn everything() -> (Everything, Value) {
    let hello = |name: &str| HelloRequest { name: name.to_owned() };
    let message = Everything {
        a_double: 0.1,
        a_float: 1.5,
        an_int32: i32::MIN,
        an_int64: i64::MIN,
        a_uint32: u32::MAX,
        a_uint64: u64::MAX,
        a_sint32: -1,
        a_sint64: i64::MAX,
        a_fixed32: 7,
        a_fixed64: 1 << 60,
        a_sfixed32: -7,
        a_sfixed64: -(1 << 60),
        a_bool: true,
        a_string: "é \"quoted\" <b>\n".to_owned(),
        some_bytes: vec![0, 255, 62],
        a_colour: Colour::Blue.into(),
        a_message: Some(hello("one")),
        nested: Some(Box::new(Everything { a_double: f64::NAN, an_int64: 1, ..Everything::default() })),
        some_numbers: vec![1, -1, i64::MAX],
        some_strings: vec![String::new(), "x".to_owned()],
        some_messages: vec![hello(""), hello("two")],
        numbers_by_name: [("a".to_owned(), 1)].into(),
        messages_by_id: [(-5, hello("five"))].into(),
        colours_by_truth: [(true, Colour::Red.into())].into(),
        choice: Some(Choice::ChosenNumber(0)),
        maybe: Some(0),
    };
    let json = json!({
        "a_double": 0.1,
        "a_float": 1.5,
        "an_int32": i32::MIN,
        "an_int64": "-9223372036854775808",
        "a_uint32": u32::MAX,
        "a_uint64": "18446744073709551615",
        "a_sint32": -1,
        "a_sint64": "9223372036854775807",
        "a_fixed32": 7,
        "a_fixed64": "1152921504606846976",
        "a_sfixed32": -7,
        "a_sfixed64": "-1152921504606846976",
        "a_bool": true,
        "a_string": "é \"quoted\" <b>\n",
        "some_bytes": "AP8+",
        "a_colour": "COLOUR_BLUE",
        "a_message": {"name": "one"},
        "nested": {"a_double": "NaN", "an_int64": "1"},
        "some_numbers": ["1", "-1", "9223372036854775807"],
        "some_strings": ["", "x"],
        "some_messages": [{}, {"name": "two"}],
        "numbers_by_name": {"a": "1"},
        "messages_by_id": {"-5": {"name": "five"}},
        "colours_by_truth": {"true": "COLOUR_RED"},
        "chosen_number": "0",
        "maybe": 0,
    });
    (message, json)
}

async fn echo(address: &str, json: &str) -> Answer {
    unary(address, ECHO, &JSON, json.as_bytes()).await
}

fn as_json(answer: &Answer) -> Value {
    assert_eq!(answer.status().code(), Code::Ok, "{:?}", answer.status());
    serde_json::from_slice(answer.message()).unwrap()
}

#[tokio::test]
async fn the_content_type_is_repeated_and_an_unknown_one_refused() {
    let (_running, address) = serve(StatusCompat::Real).await;
    let (micro, hello) = (&b"\x0a\x05micro"[..], &b"\x0a\x0bHello micro"[..]);
    for (content_type, message, reply) in [
        ("application/grpc", micro, hello),
        ("application/grpc+proto", micro, hello),
        ("application/grpc+dtm_raw", micro, hello),
        ("application/grpc+json", br#"{"name":"micro"}"#, br#"{"greeting":"Hello micro"}"#),
    ] {
        let answer = unary(&address, "/x.Greeter/Hello", &[("content-type", content_type)], message).await;
        assert_eq!((answer.content_type(), answer.message()), (content_type, reply));
    }
    let unsupported = "{\"id\":\"go.micro.server\",\"code\":500,\"detail\":\"Unsupported Content-Type: \
                       application/grpc+foo\",\"status\":\"Internal Server Error\"}";
    let undecodable = "grpc: failed to unmarshal the received message: invalid message";
    for (content_type, code, text) in
        [("application/grpc+foo", Code::Unknown, unsupported), ("application/grpc+bytes", Code::Internal, undecodable)]
    {
        let answer = unary(&address, "/x.Greeter/Hello", &[("content-type", content_type)], micro).await;
        let status = answer.status();
        assert_eq!(answer.content_type(), content_type);
        assert_eq!((status.code(), status.message(), status.details().len()), (code, text, 0));
    }
}

#[tokio::test]
async fn every_kind_of_field_is_read_and_written_as_json() {
    let (_running, address) = serve(StatusCompat::Real).await;
    let (message, json) = everything();
    let answer = echo(&address, &json.to_string()).await;
    assert_eq!(as_json(&answer), json);
    // The other way round: what stands in protobuf is what was said in JSON.
    let sent = frame(&message.encode_to_vec());
    let headers = [("te", "trailers"), ("content-type", "application/grpc+proto")];
    let as_protobuf = exchange(&address, ECHO, &headers, &[sent], true).await;
    let back = Everything::decode(as_protobuf.message()).unwrap();
    assert!(back.nested.as_ref().unwrap().a_double.is_nan());
    let without_nan = |mut message: Everything| {
        message.nested = None;
        message
    };
    assert_eq!(without_nan(back), without_nan(message));
}

#[tokio::test]
async fn json_is_answered_as_gos_server_answers_it() {
    let Some(go) = GoServer::start().await else { return };
    let (_running, rust) = serve(StatusCompat::Real).await;
    let (_, everything) = everything();
    let everything = everything.to_string();
    for json in [
        "{}",
        "",
        &everything,
        r#"{"anInt64":5,"aMessage":{"name":"camel"}}"#,
        r#"{"an_int64":"5","a_uint64":7,"a_double":"Infinity","a_colour":1}"#,
        r#"{"chosen_text":"","nested":{"nested":{}}}"#,
        r#"{"an_int32":1,"a_string":null,"some_numbers":null}"#,
        r#"{"an_int32":0,"a_string":"","a_bool":false,"maybe":0}"#,
        // Refused by both.
        r#"{"nobodys":1}"#,
        r#"{"an_int32":"x"}"#,
        r#"{"an_int32":99999999999}"#,
        r#"{"a_colour":"GREEN"}"#,
        r#"{"a_string":7}"#,
        r#"{"an_int32":1"#,
        "[]",
        "nonsense",
    ] {
        let (ours, theirs) = (echo(&rust, json).await, echo(&go.address, json).await);
        assert_eq!(ours.status().code(), theirs.status().code(), "{json}: {:?}", ours.status());
        assert_eq!(ours.content_type(), theirs.content_type());
        if theirs.status().code() == Code::Ok {
            assert_eq!(as_json(&ours), as_json(&theirs), "{json}");
        }
    }
}

#[tokio::test]
async fn gos_client_is_answered_in_json() {
    if peer().await.is_none() {
        return;
    }
    let (_running, address) = serve(StatusCompat::Real).await;
    let (_, everything) = everything();
    for content_type in ["application/json", "application/grpc+json"] {
        let everything = everything.to_string();
        let asked = ["--endpoint", "Greeter.Echo", "--content-type", content_type, "--message", &everything];
        let said = call(&address, &asked).await;
        assert_eq!(said[0]["reply"]["aUint64"], "18446744073709551615");
        assert_eq!(said[0]["reply"]["messagesById"], json!({"-5": {"name": "five"}}));
        assert_eq!(said[0]["reply"]["nested"], json!({"aDouble": "NaN", "anInt64": "1"}));
    }
}

#[tokio::test]
async fn json_that_cannot_be_read_is_told_with_what_was_wrong() {
    let (_running, address) = serve(StatusCompat::Real).await;
    let status = echo(&address, r#"{"nobodys":1}"#).await.status();
    assert_eq!(status.code(), Code::Internal);
    for part in ["failed to unmarshal", "peer.Everything", "nobodys"] {
        assert!(status.message().contains(part), "{}", status.message());
    }
    let compressed = [&[1, 0, 0, 0, 2][..], b"{}"].concat();
    let cut = [&[0, 0, 0, 0, 9][..], b"{}"].concat();
    let too_long = vec![0, 0xff, 0xff, 0xff, 0xff];
    for (data, code, text) in [
        (compressed, Code::Unimplemented, "compressed"),
        (cut, Code::Internal, "ends within a message"),
        (too_long, Code::OutOfRange, "the limit is"),
    ] {
        let headers = [("te", "trailers"), JSON[0]];
        let status = exchange(&address, ECHO, &headers, &[data], true).await.status();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(text), "{}", status.message());
    }
}

#[tokio::test]
async fn json_in_any_pieces_is_put_together() {
    let (_running, address) = serve(StatusCompat::Real).await;
    let headers = [("te", "trailers"), JSON[0]];
    let messages = [r#"{"name":"a"}"#, "", r#"{"name":"b"}"#].map(|json| frame(json.as_bytes())).concat();
    let bytes: Vec<_> = messages.iter().map(|byte| vec![*byte]).collect();
    let answer = exchange(&address, "/Greeter/Chat", &headers, &bytes, true).await;
    let expected = ["Hello a", "Hello ", "Hello b"].map(|text| frame(json!({"greeting": text}).to_string().as_bytes()));
    assert_eq!((answer.status().code(), answer.data), (Code::Ok, expected.concat()));
}

#[tokio::test]
async fn what_cannot_be_decoded_is_refused_as_gos_server_refuses_it() {
    let Some(go) = GoServer::start().await else { return };
    let (_running, rust) = serve(StatusCompat::V4).await;
    let proto = ("content-type", "application/grpc+proto");
    let too_long = [0, 0xff, 0xff, 0xff, 0xff].to_vec();
    for (path, content_type, data, said) in [
        ("/x.Greeter/Hello", proto, frame(b"\x0a\xff"), "grpc: failed to unmarshal the received message: "),
        ("/x.Greeter/Hello", proto, frame(b"\x0a\x01\xff"), "grpc: failed to unmarshal the received message: "),
        ("/x.Greeter/Count", proto, frame(b"\x0a\xff"), "grpc: failed to unmarshal the received message: "),
        ("/x.Greeter/Sum", proto, frame(b"\x0a\xff"), "grpc: failed to unmarshal the received message: "),
        ("/x.Greeter/Hello", JSON[0], frame(b"nonsense"), "grpc: failed to unmarshal the received message: "),
        ("/x.Greeter/Count", JSON[0], frame(b"nonsense"), "grpc: failed to unmarshal the received message: "),
        ("/x.Greeter/Hello", proto, too_long.clone(), "grpc: received message larger than max (4294967295 vs. "),
        ("/x.Greeter/Count", proto, too_long, "grpc: received message larger than max (4294967295 vs. "),
        ("/x.Greeter/Hello", proto, vec![], "EOF"),
        // Of frames that are none, each has words of its own.
        ("/x.Greeter/Hello", proto, vec![1, 0, 0, 0, 2, 0, 0], ""),
        ("/x.Greeter/Hello", proto, vec![7, 0, 0, 0, 2, 0, 0], ""),
        ("/x.Greeter/Hello", proto, vec![0, 0, 0, 0, 9, 0, 0], ""),
        ("/x.Greeter/Hello", JSON[0], vec![0, 0, 0, 0, 9, 0, 0], ""),
    ] {
        let asked = async |address: &str| {
            let headers = [("te", "trailers"), content_type];
            exchange(address, path, &headers, std::slice::from_ref(&data), true).await.status()
        };
        let (ours, theirs) = (asked(&rust).await, asked(&go.address).await);
        assert_eq!(ours.code(), theirs.code(), "{path} {data:?}: {ours:?} {theirs:?}");
        assert!(ours.message().starts_with(said) && theirs.message().starts_with(said), "{ours:?} {theirs:?}");
        assert!(ours.details().is_empty());
    }
}
