//! Hands `micro_fuzz::grpc_metadata` whatever libFuzzer thinks of.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| micro_fuzz::grpc_metadata(data));
