//! libFuzzer over `countersign_fuzz::enrolment`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::enrolment(data));
