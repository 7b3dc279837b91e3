//! What DTM can call at all: branches that it cannot it would call for ever.
//!
//! Source: DTM 1.19, `getURLResult`, and the default driver of dtmdriver 0.0.6; grpc-go, `ValidatePair`.

use micro_core::{
    Error, ErrorKind, Result,
    branch::{Mode, shown_url},
    saga::REGISTRY_SCHEME,
};
use reqwest::Url;

use super::{BranchRegistration, global::GlobalTransaction};

/// # Errors
///
/// `InvalidArgument` for a URL that no driver of DTM's understands and for a header that cannot be sent,
/// with the step.
pub(super) fn check(operation: &'static str, transaction: &GlobalTransaction) -> Result<()> {
    let told = |error: Error| error.with_context("gid", transaction.gid.escape_debug());
    for (index, step) in transaction.steps.iter().enumerate() {
        for url in [&step.action, &step.compensation] {
            check_url(operation, url).map_err(|error| told(error).with_context("step", index))?;
        }
    }
    check_url(operation, &transaction.query_prepared).map_err(told)?;
    check_headers(operation, transaction).map_err(told)
}

/// # Errors
///
/// `InvalidArgument` for a URL that no driver of DTM's understands.
pub(super) fn check_branch(operation: &'static str, branch: &BranchRegistration) -> Result<()> {
    // A workflow's data are words; it is called by another URL.
    let mut urls = branch.data.values().filter(|_| branch.mode != Mode::Workflow);
    urls.try_for_each(|url| check_url(operation, url))
        .map_err(|error| error.with_context("gid", branch.gid.escape_debug()))
}

fn check_url(operation: &'static str, url: &str) -> Result<()> {
    let refused = |message: &'static str| {
        Err(Error::new(ErrorKind::InvalidArgument, operation, message).with_context("url", shown_url(url)))
    };
    if url.is_empty() {
        return Ok(());
    }
    if url.starts_with(REGISTRY_SCHEME) {
        return refused("DTM knows no registry of ours, and would call this for ever: give it an address");
    }
    if is_http(url) {
        return if Url::parse(url).is_ok() {
            Ok(())
        } else {
            refused("not a branch's URL: expected http://HOST:PORT/PATH")
        };
    }
    // A topic, or what a driver that DTM was given understands: nobody here knows which.
    if url.contains("://") {
        return Ok(());
    }
    match url.split_once('/') {
        Some((address, method)) if address.contains(':') && !method.is_empty() => Ok(()),
        _ => refused("not a branch's URL, and DTM would call it for ever: expected HOST:PORT/package.Service/Method"),
    }
}

/// In gRPC a value is printable ASCII, in HTTP anything but control characters.
fn check_headers(operation: &'static str, transaction: &GlobalTransaction) -> Result<()> {
    let mut urls = transaction.steps.iter().flat_map(|step| [&step.action, &step.compensation]);
    let has_grpc = urls.any(|url| !url.is_empty() && !is_http(url));
    for (name, value) in &transaction.options.headers {
        let refused = |message: &'static str| {
            Err(Error::new(ErrorKind::InvalidArgument, operation, message).with_context("header", name.escape_debug()))
        };
        let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if name.is_empty() || !name.to_ascii_lowercase().chars().all(is_letter) {
            return refused("a header's name cannot be sent: expected letters, digits, `-`, `_` and `.`");
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            return refused("a header's value has a control character, and cannot be sent");
        }
        if has_grpc && !name.ends_with("-bin") && !value.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
            return refused("a header's value cannot be sent over gRPC: expected printable ASCII");
        }
    }
    Ok(())
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

#[cfg(test)]
mod tests {
    use micro_core::saga::Step;

    use super::*;

    fn transaction(action: &str, header: (&str, &str)) -> GlobalTransaction {
        let mut transaction = GlobalTransaction::new(Mode::Saga, "g");
        transaction.steps = vec![Step::new(""), Step::new(action)];
        transaction.options.headers.insert(header.0.to_owned(), header.1.to_owned());
        transaction
    }

    #[test]
    fn what_no_driver_understands_is_refused_with_its_step() {
        for url in
            ["product/shop.Product/Deduct", "127.0.0.1:9000", "127.0.0.1:9000/", "http://", "registry:///a/b.C/D"]
        {
            let error = check("saga.check", &transaction(url, ("x", "1"))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(&format!("url={url}, gid=g, step=1")), "{error}");
        }
        // The last ones are for drivers, and for topics.
        for url in
            ["127.0.0.1:9000/a.B/C", "http://h/a", "https://h:1/a?b=c", "discov://127.0.0.1:2379/a/b.C/D", "topic://t"]
        {
            check("saga.check", &transaction(url, ("x", "1"))).unwrap();
        }
    }

    #[test]
    fn a_registered_branch_has_urls_and_a_workflow_has_words() {
        let branch = |mode| BranchRegistration::new(mode, "g", "01").data("confirm", "product/a.B/C");
        let error = check_branch("dtm.register", &branch(Mode::Tcc)).unwrap_err();
        assert!(error.to_string().contains("url=product/a.B/C, gid=g"), "{error}");
        check_branch("dtm.register", &branch(Mode::Workflow)).unwrap();
    }

    #[test]
    fn a_header_that_cannot_be_sent_is_refused_without_its_value() {
        let (grpc, http) = ("h:1/a.B/C", "http://h/a");
        for (url, name, value) in [
            (grpc, "x", "Zoë"),
            (grpc, "x", "a\tb"),
            (grpc, "x", "a\nb"),
            (http, "x", "a\nb"),
            (grpc, "", "a"),
            (http, "a b", "a"),
        ] {
            let error = check("saga.check", &transaction(url, (name, value))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(&format!("header={name}, gid=g")), "{error}");
            assert!(value == "a" || !error.report().contains(value), "{error}");
        }
        for (url, name, value) in
            [(http, "x", "Zoë"), (grpc, "x-bin", "Zoë"), (grpc, "X-Name", "Zoe B."), (http, "x", "a\tb")]
        {
            check("saga.check", &transaction(url, (name, value))).unwrap();
        }
    }
}
