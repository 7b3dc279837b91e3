//! Hands `micro_fuzz::go_micro_error` whatever libFuzzer thinks of.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| micro_fuzz::go_micro_error(data));
