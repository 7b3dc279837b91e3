//! Hands `micro_fuzz::consul_answer` whatever libFuzzer thinks of.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| micro_fuzz::consul_answer(data));
