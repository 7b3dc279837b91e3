//! examples/hello.
fn main() {}
