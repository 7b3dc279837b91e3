//! How much of the service is there for micro-rs: what its papers say is counted.

/// The lines of code; imports, comments and what only closes a block are none.
fn code(source: &'static str) -> impl Iterator<Item = &'static str> {
    let mut is_import = false;
    source.lines().map(str::trim).filter(move |line| {
        let begins = line.starts_with("use ");
        let is_of_import = is_import || begins;
        is_import = is_of_import && !line.ends_with(';');
        !is_of_import && !line.starts_with("//") && line.contains(|character: char| character.is_alphanumeric())
    })
}

#[test]
fn the_outbox_is_twenty_lines_and_ten_where_it_is_used() {
    let added = code(include_str!("../../src/events.rs")).count();
    let marked = [include_str!("../../src/shop.rs"), include_str!("../../src/main.rs")]
        .map(|source| code(source).filter(|line| line.ends_with("// micro-rs")).count());
    println!("{added} lines, and {marked:?}");
    assert!(added <= 20, "{added} lines in events.rs");
    assert!(marked.iter().sum::<usize>() <= 10, "{marked:?} marked lines");
    assert!(marked.iter().all(|count| *count > 0), "{marked:?}: the marks are gone");
}
