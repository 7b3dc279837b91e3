//! What DTM's store can keep, checked before anything is sent.
//!
//! Source: `sqls/dtmsvr.storage.mysql.sql` of DTM 1.19. What is longer fails there in the middle of a
//! transaction, or is cut.

use micro_core::{Error, ErrorKind, Result, branch::GID_BYTES_MAX, saga::Step};

use super::{BranchRegistration, StoreLimits, callable, global::GlobalTransaction};

/// Columns of `varchar(1024)`.
const TEXT_CHARS_MAX: usize = 1024;
/// A column of `BLOB`.
const PAYLOAD_BYTES_MAX: usize = 65_535;
/// What grpc-go takes of one message by default, and so DTM of one request; over gRPC the whole request is
/// measured.
pub(crate) const REQUEST_BYTES_MAX: usize = 4 << 20;

/// # Errors
///
/// `InvalidArgument`, which names what is too long and its limit, or what DTM cannot call.
pub(crate) fn check(operation: &'static str, transaction: &GlobalTransaction, limits: StoreLimits) -> Result<()> {
    check_lengths(operation, transaction, limits)?;
    callable::check(operation, transaction)
}

fn check_lengths(operation: &'static str, transaction: &GlobalTransaction, limits: StoreLimits) -> Result<()> {
    let refused = |message: &'static str| {
        // A whole gid may be what is too long.
        let gid: String = transaction.gid.chars().take(GID_BYTES_MAX).collect();
        Error::new(ErrorKind::InvalidArgument, operation, message).with_context("gid", gid.escape_debug())
    };
    let gid = &transaction.gid;
    if gid.is_empty() {
        return Err(refused("a global transaction needs an id"));
    }
    if gid.contains(['\n', '\r', ';']) {
        return Err(refused("DTM takes line breaks and semicolons out of an id: use letters, digits and `-`"));
    }
    // Whatever DTM keeps, every participant refuses a longer one each time that it is called.
    if gid.len() > GID_BYTES_MAX {
        let error = refused("the id is too long for participants and their barriers");
        let error = error.with_context("what", "gid").with_context("length", gid.len());
        return Err(error.with_context("length_max", GID_BYTES_MAX));
    }
    let bytes: usize = transaction.steps.iter().map(|step| step.payload.len()).sum();
    if bytes > REQUEST_BYTES_MAX {
        let error = refused("the payloads are more than a request to DTM may be");
        return Err(error.with_context("payload_bytes", bytes).with_context("payload_bytes_max", REQUEST_BYTES_MAX));
    }
    if limits == StoreLimits::None {
        return Ok(());
    }
    let too_long = |what: &'static str, length: usize, max: usize| {
        let message = "too long for DTM's store: make it shorter, or set store_limits to none for boltdb or Redis";
        refused(message).with_context("what", what).with_context("length", length).with_context("length_max", max)
    };
    let options = serde_json::to_string(&transaction.json_options()).expect("texts and numbers are JSON");
    let texts = [
        ("options, of which headers are the most", options.as_str()),
        ("custom data", transaction.custom_data.as_str()),
        ("query_prepared", transaction.query_prepared.as_str()),
        ("rollback reason", transaction.rollback_reason.as_str()),
        ("result, in base64", transaction.extra.get("result").map_or("", String::as_str)),
    ];
    for (what, text) in texts {
        let length = text.chars().count();
        if length > TEXT_CHARS_MAX {
            return Err(too_long(what, length, TEXT_CHARS_MAX));
        }
    }
    for (index, step) in transaction.steps.iter().enumerate() {
        for url in [&step.action, &step.compensation] {
            if url.chars().count() > TEXT_CHARS_MAX {
                return Err(too_long("url", url.chars().count(), TEXT_CHARS_MAX).with_context("step", index));
            }
        }
        if step.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(too_long("payload", step.payload.len(), PAYLOAD_BYTES_MAX).with_context("step", index));
        }
    }
    Ok(())
}

/// # Errors
///
/// `InvalidArgument`, which names what is too long and its limit.
pub(crate) fn check_branch(operation: &'static str, branch: &BranchRegistration, limits: StoreLimits) -> Result<()> {
    let mut transaction = GlobalTransaction::new(branch.mode, &branch.gid);
    // URLs, a workflow's words: each is a column as a step's URL is.
    let mut step = Step::new("").payload(branch.payload.clone());
    check_lengths(operation, &transaction, limits)?;
    callable::check_branch(operation, branch)?;
    for value in branch.data.values() {
        step.action.clone_from(value);
        transaction.steps = vec![step.clone()];
        check_lengths(operation, &transaction, limits)?;
    }
    transaction.steps = vec![step];
    check_lengths(operation, &transaction, limits)
}

#[cfg(test)]
mod tests {
    use micro_core::branch::Mode;

    use super::*;

    fn transaction(change: impl FnOnce(&mut GlobalTransaction)) -> GlobalTransaction {
        let mut transaction = GlobalTransaction::new(Mode::Saga, "g");
        transaction.steps.push(Step::new("h:1/a.B/C"));
        change(&mut transaction);
        transaction
    }

    fn long(count: usize) -> String {
        "é".repeat(count)
    }

    fn long_url(count: usize) -> String {
        format!("h:1/{}", long(count - 4))
    }

    /// A change that makes a transaction one too long, and what the error says.
    type Row = (fn(&mut GlobalTransaction, usize), usize, &'static str);

    #[test]
    fn one_more_than_the_limit_is_refused_and_the_limit_is_told() {
        let rows: [Row; 7] = [
            (|it, more| it.gid = "g".repeat(128 + more), 128, "what=gid, length=129, length_max=128"),
            (|it, more| it.custom_data = long(1024 + more), 1024, "what=custom data, length=1025"),
            (|it, more| it.query_prepared = long_url(1024 + more), 1024, "what=query_prepared, length=1025"),
            (|it, more| it.rollback_reason = long(1024 + more), 1024, "what=rollback reason, length=1025"),
            (
                |it, more| it.steps[0].action = long_url(1024 + more),
                1024,
                "what=url, length=1025, length_max=1024, step=0",
            ),
            (|it, more| it.steps[0].compensation = long_url(1024 + more), 1024, "what=url, length=1025"),
            (
                |it, more| it.steps[0].payload = vec![0; 65_535 + more].into(),
                65_535,
                "what=payload, length=65536, length_max=65535, step=0",
            ),
        ];
        for (change, max, told) in rows {
            check("saga.submit", &transaction(|it| change(it, 0)), StoreLimits::Sql).unwrap();
            let over = transaction(|it| change(it, 1));
            let error = check("saga.submit", &over, StoreLimits::Sql).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(told) && error.to_string().contains(&max.to_string()), "{error}");
            // Every participant refuses a longer id, whatever DTM keeps.
            let is_gid = told.contains("what=gid");
            assert_eq!(check("saga.submit", &over, StoreLimits::None).is_err(), is_gid, "{told}");
        }
    }

    /// DTM keeps the options as JSON, so that names, values and what stands between them count.
    #[test]
    fn headers_count_as_they_are_kept() {
        let frame = r#"{"branch_headers":{"x":""},"concurrent":false}"#.len();
        let with = |count| transaction(|it| drop(it.options.headers.insert("x".to_owned(), "v".repeat(count))));
        check("saga.submit", &with(1024 - frame), StoreLimits::Sql).unwrap();
        let error = check("saga.submit", &with(1025 - frame), StoreLimits::Sql).unwrap_err();
        assert!(error.to_string().contains("what=options, of which headers are the most, length=1025"), "{error}");
    }

    #[test]
    fn an_id_that_dtm_would_change_is_refused_by_every_store() {
        for gid in ["", "a;b", "a\nb", "a\rb"] {
            for limits in [StoreLimits::Sql, StoreLimits::None] {
                let transaction = transaction(|it| it.gid = gid.to_owned());
                let error = check("saga.submit", &transaction, limits).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{gid:?}");
            }
        }
    }

    #[test]
    fn a_request_that_dtm_does_not_take_is_refused_by_every_store() {
        let transaction = transaction(|it| it.steps[0].payload = vec![0; (4 << 20) + 1].into());
        let error = check("saga.submit", &transaction, StoreLimits::None).unwrap_err();
        assert!(error.to_string().contains("payload_bytes_max=4194304"), "{error}");
    }

    #[test]
    fn a_registered_branch_has_the_limits_of_a_step() {
        let branch =
            BranchRegistration::new(Mode::Tcc, "g", "01").data("confirm", long_url(1024)).payload(vec![0; 65_535]);
        check_branch("dtm.register", &branch, StoreLimits::Sql).unwrap();
        for (over, told) in [
            (branch.clone().data("cancel", long_url(1025)), "length_max=1024"),
            (branch.clone().payload(vec![0; 65_536]), "length_max=65535"),
            (BranchRegistration::new(Mode::Tcc, "g".repeat(129), "01"), "length_max=128"),
        ] {
            let error = check_branch("dtm.register", &over, StoreLimits::Sql).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
        let over = branch.data("cancel", long_url(1025));
        check_branch("dtm.register", &over, StoreLimits::None).unwrap();
    }
}
