//! Branches of global transactions: calls of DTM 1.19 that were recorded, against a server here, and what
//! DTM made of each answer.

mod busi;
mod captures;

use micro_core::{
    Error, ErrorKind,
    branch::{BranchError, Mode, Op},
};
use micro_grpc::{GoMicroConfig, StatusCompat};
use micro_testkit::Logged;
use tonic::Code;

use self::{
    busi::{Busi, serve},
    captures::{Recorded, notes, read},
};
use crate::{
    fixture::eventually,
    go_micro::raw::{Answer, unary},
};

const E01: &str = "e01-grpc-result-table.jsonl";

/// A server that knows nothing of go-micro, and both forms of one that does: DTM reads the same of all.
fn servers() -> [Option<GoMicroConfig>; 3] {
    let v4 = GoMicroConfig::default().with_status_compat(StatusCompat::V4);
    [None, Some(GoMicroConfig::default()), Some(v4)]
}

/// What a handler answers where the recorded one answered with this code and text.
fn outcome(code: i32, text: &str) -> Result<(), BranchError> {
    match Code::from_i32(code) {
        Code::Ok => Ok(()),
        Code::Aborted => Err(BranchError::failed(text)),
        Code::FailedPrecondition => Err(BranchError::Ongoing),
        code => Err(Error::new(ErrorKind::from_code(code as u32).unwrap(), "pay", text.to_owned()).into()),
    }
}

async fn replayed(busi: &Busi, address: &str, recorded: &Recorded) -> Answer {
    let (code, text) = recorded.answered();
    busi.answer(outcome(code, &text));
    recorded.replay(address).await
}

#[tokio::test]
async fn recorded_calls_of_dtm_are_answered_as_its_branches_did() {
    for go_micro in servers() {
        let (busi, _running, address) = serve(go_micro.clone()).await;
        for name in [
            "g02-saga-success-wait-headers.jsonl",
            "g03-saga-failure-rollback.jsonl",
            "t01-tonic-server.jsonl",
            "d02-xa-mysql-grpc.jsonl",
        ] {
            for recorded in read(name) {
                let answer = replayed(&busi, &address, &recorded).await;
                let (code, text) = recorded.answered();
                let status = answer.status();
                assert_eq!(status.code() as i32, code, "{name} {recorded:?}");
                // An error has its operation before its text, which DTM keeps of a failure alone.
                match status.code() {
                    Code::Ok | Code::Aborted => assert_eq!(status.message(), text, "{name} {recorded:?}"),
                    _ => assert!(status.message().ends_with(&text), "{name} {recorded:?}"),
                }
                assert!(status.details().is_empty(), "{name}: a detail is not for DTM");
                assert_eq!(answer.data, recorded.answer.data, "{name} {recorded:?}");
                // tonic, which was recorded too, answers its own; DTM takes both.
                assert_eq!(answer.content_type(), recorded.header("content-type"), "{name} {recorded:?}");

                let branch = busi.called();
                assert_eq!(branch.gid, recorded.header("dtm-gid"));
                assert_eq!(branch.mode.as_str(), recorded.header("dtm-trans_type"));
                assert_eq!(branch.id, recorded.header("dtm-branch_id"));
                assert_eq!(branch.op.as_str(), recorded.header("dtm-op"));
                assert_eq!(branch.coordinator.unwrap_or_default(), recorded.header("dtm-dtm"));
                assert_eq!(branch.phase2_url.unwrap_or_default(), recorded.header("dtm-phase2_url"));
            }
        }
    }
}

/// What a call came to at DTM's, by the state in which it left the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Succeeded,
    Failed,
    /// The same pause again.
    Ongoing,
    /// A longer pause.
    Unknown,
}

/// What DTM made of each answer, by the recorder's notes.
fn meanings() -> Vec<(i32, String, Meaning)> {
    let meaning = |note: &str| {
        let (answer, state) = note.strip_prefix("branch code=")?.split_once(" => ")?;
        let code = answer.split('(').next()?.parse().ok()?;
        let text = answer.split_once("msg=\"")?.1.strip_suffix('"')?.to_owned();
        let meaning = match state {
            state if state.contains("status=succeed") => Meaning::Succeeded,
            state if state.contains("status=failed") => Meaning::Failed,
            state if state.contains("next_cron_interval=3600") => Meaning::Ongoing,
            state if state.contains("next_cron_interval=7200") => Meaning::Unknown,
            _ => return None,
        };
        Some((code, text, meaning))
    };
    let found: Vec<_> = notes(E01).iter().filter_map(|note| meaning(note)).collect();
    assert_eq!(found.len(), notes(E01).len(), "a note is not understood");
    found
}

/// What DTM made of an answer of this code: of an aborted one with just this text, of a success with a
/// message or without.
fn meaning_of(answer: &Answer) -> Meaning {
    let status = answer.status();
    let text = match status.code() {
        Code::Ok if answer.data.is_empty() => "no-message",
        Code::Ok => "",
        Code::Aborted if status.message() == "ONGOING" => "ONGOING",
        Code::Aborted => "no money",
        _ => "any",
    };
    let is_same =
        |(code, known, _): &&(i32, String, Meaning)| *code == status.code() as i32 && (text == "any" || text == known);
    meanings().iter().find(is_same).unwrap_or_else(|| panic!("{status:?} was not recorded")).2
}

#[tokio::test]
async fn dtm_reads_of_every_answer_what_the_handler_meant() {
    let (busi, _running, address) = serve(None).await;
    let recorded = read(E01);
    let action = recorded.iter().find(|call| call.header("dtm-op") == "action").unwrap();
    let mut outcomes = vec![(Ok(()), Meaning::Succeeded), (Err(BranchError::Ongoing), Meaning::Ongoing)];
    // Words of DTM's, and a text that early clients gave another meaning.
    for text in ["no money", "FAILURE", "ONGOING", "x ONGOING", ""] {
        outcomes.push((Err(BranchError::failed(text)), Meaning::Failed));
    }
    for kind in ErrorKind::ALL {
        let meaning = if kind.is_permanent() { Meaning::Failed } else { Meaning::Unknown };
        outcomes.push((Err(Error::new(kind, "pay", "ONGOING FAILURE").into()), meaning));
    }
    for (outcome, meaning) in outcomes {
        let what = format!("{outcome:?}");
        busi.answer(outcome);
        assert_eq!(meaning_of(&action.replay(&address).await), meaning, "{what}");
    }
}

/// An action's error of a permanent kind is a failure; what undoes it must not fail, nor seem ongoing.
#[tokio::test]
async fn an_undoing_neither_fails_nor_seems_ongoing_by_accident() {
    let (busi, _running, address) = serve(None).await;
    let recorded = read(E01);
    let undoing = recorded.iter().find(|call| call.header("dtm-op") == "compensate").unwrap();
    for kind in ErrorKind::ALL {
        busi.answer(Err(Error::new(kind, "pay", "not so").into()));
        let answer = undoing.replay(&address).await;
        assert_eq!(meaning_of(&answer), Meaning::Unknown, "{kind}");
        assert_eq!(answer.status().message(), "pay: not so", "{kind}");
    }
}

/// It says what comes of it, for nobody else does: DTM goes on asking.
#[tokio::test]
async fn a_failure_where_none_is_allowed_is_told_once_for_each_method() {
    let (busi, _running, address) = serve(None).await;
    let logged = Logged::default();
    let _listening = logged.here(tracing::Level::INFO);
    let undoing =
        |gid| [("dtm-gid", gid), ("dtm-trans_type", "saga"), ("dtm-branch_id", "01"), ("dtm-op", "compensate")];
    for (gid, path) in [("g1", "/busi.Busi/Comp"), ("g2", "/busi.Busi/Comp"), ("g3", "/busi.Busi/TransOutRevert")] {
        busi.answer(Err(BranchError::failed("no money")));
        assert_eq!(unary(&address, path, &undoing(gid), b"").await.status().code(), Code::Aborted);
    }
    // Where it is allowed there is nothing to say.
    let action = [("dtm-gid", "g4"), ("dtm-trans_type", "saga"), ("dtm-branch_id", "01"), ("dtm-op", "action")];
    busi.answer(Err(BranchError::failed("no money")));
    unary(&address, "/busi.Busi/Act", &action, b"").await;

    let told: Vec<_> = logged.lines().into_iter().filter(|line| line.contains("asked again for ever")).collect();
    assert_eq!(told.len(), 2, "{told:#?}");
    for (line, method, gid) in [(&told[0], "busi.Busi/Comp", "g1"), (&told[1], "busi.Busi/TransOutRevert", "g3")] {
        assert!(line.contains("WARN"), "{line}");
        for part in [format!("method=\"{method}\""), format!("gid=\"{gid}\""), "reason=\"no money\"".to_owned()] {
            assert!(line.contains(&part), "{part}: {line}");
        }
    }
}

#[tokio::test]
async fn a_reason_is_cut_to_what_dtm_can_keep() {
    let (busi, _running, address) = serve(None).await;
    let recorded = read(E01);
    busi.answer(Err(BranchError::failed("\u{9322}".repeat(2_000))));
    let status = recorded[0].replay(&address).await.status();
    assert_eq!((status.code(), status.message()), (Code::Aborted, "\u{9322}".repeat(600).as_str()));
}

/// The same method, called by somebody else: statuses mean what they mean elsewhere.
#[tokio::test]
async fn a_call_of_no_coordinator_is_answered_as_any_other() {
    let (busi, _running, address) = serve(None).await;
    for (outcome, code, text) in [
        (Ok(()), Code::Ok, ""),
        (Err(BranchError::failed("no money")), Code::FailedPrecondition, "no money"),
        (Err(BranchError::Ongoing), Code::Unavailable, "not done yet: call again"),
        (Err(Error::new(ErrorKind::Aborted, "pay", "lost").into()), Code::Aborted, "pay: lost"),
        (Err(Error::new(ErrorKind::NotFound, "pay", "none").into()), Code::NotFound, "pay: none"),
    ] {
        busi.answer(outcome);
        let answer = unary(&address, "/busi.Busi/Act", &[], b"").await;
        assert_eq!((answer.status().code(), answer.status().message()), (code, text));
        assert_eq!(answer.content_type(), "application/grpc");
    }
    assert!(busi.called_branches().is_empty());
}

#[tokio::test]
async fn a_part_that_is_missing_is_named_and_the_handler_not_reached() {
    let (busi, _running, address) = serve(None).await;
    // As a proxy leaves them that drops names with an underscore.
    let answer = unary(&address, "/busi.Busi/Act", &[("dtm-gid", "g"), ("dtm-op", "action")], b"").await;
    assert_eq!(answer.status().code(), Code::InvalidArgument);
    assert!(answer.status().message().contains("missing=trans_type,branch_id"), "{:?}", answer.status());
    assert!(answer.status().message().contains("does a proxy drop names"), "{:?}", answer.status());
    assert!(busi.called_branches().is_empty());
}

/// DTM's limit for a branch: the handler is dropped at it, and its transaction with it.
#[tokio::test]
async fn the_time_limit_of_the_call_ends_the_handler() {
    let (busi, _running, address) = serve(None).await;
    busi.hang();
    let branch = [("dtm-gid", "g"), ("dtm-trans_type", "saga"), ("dtm-branch_id", "01"), ("dtm-op", "action")];
    let headers = [&branch[..], &[("grpc-timeout", "200000u"), ("content-type", "application/grpc+dtm_raw")]].concat();
    let answer = unary(&address, "/busi.Busi/Act", &headers, b"").await;
    assert_eq!(answer.status().code(), Code::DeadlineExceeded);
    eventually(|| async { busi.dropped_count() == 1 }).await;
}

/// The second phase of XA, and the question after a message: a frame of no bytes.
#[tokio::test]
async fn an_empty_message_is_taken_and_a_frame_answered() {
    let (busi, _running, address) = serve(None).await;
    busi.answer(Ok(()));
    let branch = [("dtm-gid", "g"), ("dtm-trans_type", "msg"), ("dtm-branch_id", "00"), ("dtm-op", "msg")];
    let answer = unary(&address, "/busi.Busi/Act", &branch, b"").await;
    assert_eq!((answer.status().code(), answer.data.as_slice()), (Code::Ok, [0; 5].as_slice()));
    let called = busi.called();
    assert_eq!((called.mode, called.op, called.id.as_str()), (Mode::Msg, Op::Msg, "00"));
}
