//! Hands `micro_fuzz::kafka_envelope` whatever libFuzzer thinks of.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| micro_fuzz::kafka_envelope(data));
