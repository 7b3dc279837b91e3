//! The one table from Consul's answers and reqwest's errors to [`ErrorKind`].

use micro_core::{Error, ErrorKind};
use reqwest::StatusCode;

/// How much of an answer's text stands in an error.
const SHOWN_CHARS: usize = 200;

/// An answer that is not a success. Consul's text goes along, for it names what is wrong.
pub(crate) fn from_answer(operation: &'static str, status: StatusCode, text: &str) -> Error {
    let (kind, message) = classify(status);
    let shown: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARS).collect();
    let error = Error::new(kind, operation, message).with_context("status", status.as_u16());
    if shown.is_empty() { error } else { error.with_context("answer", shown) }
}

fn classify(status: StatusCode) -> (ErrorKind, &'static str) {
    match status.as_u16() {
        400 => (ErrorKind::InvalidArgument, "Consul refused the request"),
        401 => (ErrorKind::Unauthenticated, "Consul does not take this token here"),
        403 => (ErrorKind::PermissionDenied, "the ACL token is unknown or its policy does not allow this"),
        404 => (ErrorKind::NotFound, "Consul knows nothing of this name"),
        413 | 429 => (ErrorKind::ResourceExhausted, "a limit of Consul is reached"),
        // 1.7 answers so to a lost check, and all versions do while there is no leader.
        500 => (ErrorKind::Unavailable, "Consul could not do it now"),
        502..=504 => (ErrorKind::Unavailable, "Consul is not there, or its servers are not"),
        _ => (ErrorKind::Unknown, "not an answer of Consul's: is there another server at this address?"),
    }
}

/// A request without an answer. The URL is left out: the caller names the agent's address.
pub(crate) fn from_reqwest(operation: &'static str, error: reqwest::Error) -> Error {
    let (kind, message) = if error.is_builder() {
        (ErrorKind::InvalidArgument, "the settings make no request")
    } else if error.is_connect() {
        (ErrorKind::Unavailable, "no Consul agent answers: start one there, or correct the address")
    } else if error.is_timeout() {
        (ErrorKind::DeadlineExceeded, "the Consul agent did not answer in time")
    } else {
        (ErrorKind::Unavailable, "the connection to the Consul agent broke")
    };
    Error::new(kind, operation, message).with_source(error.without_url())
}

/// An answer that is not what the API promises.
pub(crate) fn unreadable(operation: &'static str, cause: serde_json::Error) -> Error {
    let message = "the answer is not Consul's: is there another server at this address?";
    Error::new(ErrorKind::DataLoss, operation, message).with_source(cause)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    /// For what must end by itself.
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn every_status_has_its_kind() {
        for (status, kind) in [
            (400, ErrorKind::InvalidArgument),
            (401, ErrorKind::Unauthenticated),
            (403, ErrorKind::PermissionDenied),
            (404, ErrorKind::NotFound),
            (413, ErrorKind::ResourceExhausted),
            (429, ErrorKind::ResourceExhausted),
            (500, ErrorKind::Unavailable),
            (502, ErrorKind::Unavailable),
            (503, ErrorKind::Unavailable),
            (504, ErrorKind::Unavailable),
            (301, ErrorKind::Unknown),
            (418, ErrorKind::Unknown),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(from_answer("registry.watch", status, "").kind(), kind, "{status}");
        }
    }

    #[test]
    fn the_text_of_an_answer_is_one_short_line() {
        let text = format!("No cluster leader\nagain {}", "x".repeat(1000));
        let error = from_answer("registry.watch", StatusCode::INTERNAL_SERVER_ERROR, &text);
        let shown = error.to_string();
        assert!(shown.contains("status=500, answer=No cluster leader again xxx"), "{shown}");
        assert!(!shown.contains('\n') && shown.len() < 400, "{shown}");
    }

    #[tokio::test]
    async fn every_error_of_the_client_has_its_kind() {
        let client = crate::client::http(&crate::ConsulConfig::default()).unwrap();
        let kind = async |url: &str, limit: Duration| {
            let error = client.get(url).timeout(limit).send().await.unwrap_err();
            let error = from_reqwest("registry.watch", error);
            assert!(!error.report().contains("canary"), "{error:?}");
            error.kind()
        };
        assert_eq!(kind("canary://", LONG).await, ErrorKind::InvalidArgument);

        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/canary", silent.local_addr().unwrap());
        assert_eq!(kind(&url, Duration::from_millis(200)).await, ErrorKind::DeadlineExceeded);
        drop(silent);
        assert_eq!(kind(&url, LONG).await, ErrorKind::Unavailable);

        let cutting = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/canary", cutting.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                drop(cutting.accept().await);
            }
        });
        assert_eq!(kind(&url, LONG).await, ErrorKind::Unavailable);
    }

    #[test]
    fn an_answer_of_another_server_is_told_as_such() {
        let cause = serde_json::from_str::<u32>("<html>").unwrap_err();
        let error = unreadable("registry.instances", cause);
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert!(error.to_string().contains("another server"), "{error}");
    }
}
