//! examples/payment-chain.
fn main() {}
