//! libFuzzer over `countersign_fuzz::ima_list`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::ima_list(data));
