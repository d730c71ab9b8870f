//! libFuzzer over `countersign_fuzz::tpm`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::tpm(data));
