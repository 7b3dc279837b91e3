//! Hands `micro_fuzz::etcd_value` whatever libFuzzer thinks of.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| micro_fuzz::etcd_value(data));
