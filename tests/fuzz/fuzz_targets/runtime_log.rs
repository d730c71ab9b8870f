//! libFuzzer over `countersign_fuzz::runtime_log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::runtime_log(data));
