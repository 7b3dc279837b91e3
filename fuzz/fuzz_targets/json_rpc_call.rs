//! Hands `micro_fuzz::json_rpc_call` whatever libFuzzer thinks of.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| micro_fuzz::json_rpc_call(data));
