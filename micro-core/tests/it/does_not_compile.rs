//! What must not compile: publishing without a key or a transaction, subscribing with the wrong type.

#[test]
fn wrong_use_of_events_does_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/it/compile_fail/right.rs");
    cases.compile_fail("tests/it/compile_fail/event_without_a_key.rs");
    cases.compile_fail("tests/it/compile_fail/publish_without_a_transaction.rs");
    cases.compile_fail("tests/it/compile_fail/handler_of_another_type.rs");
}
