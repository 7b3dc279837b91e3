//! What a peer says, whatever it is, is read without a panic.

use http::{HeaderMap, HeaderValue};
use micro_grpc::{from_status, fuzz};
use proptest::prelude::*;
use tonic::{Code, Status};

proptest! {
    #[test]
    fn a_failures_message_and_details(message in ".{0,200}", details in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = fuzz::go_micro_error(&message, &details);
        let status = Status::with_details(Code::Unknown, message, details.into());
        let _ = from_status("fuzz", status);
    }

    #[test]
    fn json_that_is_nearly_go_micros_error(id in ".{0,20}", code in any::<i64>(), rest in ".{0,40}") {
        let json = serde_json::json!({"id": id, "code": code, "detail": rest, "status": null}).to_string();
        let is_read = fuzz::go_micro_error(&json, &[]).is_some();
        prop_assert_eq!(is_read, i32::try_from(code).is_ok_and(|code| code > 0));
        let _ = fuzz::go_micro_error(&format!("{json}{rest}"), &[]);
    }

    #[test]
    fn texts_of_statuses(text in "(rpc error: code = (Unknown|Aborted|[A-Z]{1,8}) desc = ){0,20}.{0,40}") {
        let _ = fuzz::unflattened(&text);
        let _ = from_status("fuzz", Status::unknown(text));
    }

    #[test]
    fn time_limits(text in "[0-9a-z +-]{0,40}") {
        let _ = fuzz::nanoseconds(&text);
    }
}

/// tonic panics at details that are no base64, which a callee of any kind may send.
#[tokio::test]
async fn details_that_are_no_base64_do_not_end_the_client() {
    let (sent, head) = (HeaderValue::from_static("not base64!"), [("grpc-status", "5"), ("grpc-message", "gone")]);
    for in_trailers in [false, true] {
        let mut headers = HeaderMap::new();
        for (name, value) in head {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("grpc-status-details-bin", sent.clone());
        let status = super::raw::status_from_a_server_that_says(headers, in_trailers).await;
        assert_eq!((status.code(), status.message()), (Code::NotFound, "gone"), "in trailers: {in_trailers}");
    }
}
