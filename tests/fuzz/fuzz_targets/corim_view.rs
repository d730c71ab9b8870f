//! libFuzzer over files of whoever's CoRIM: they are shown or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(lines) = reference_values::corim_view::lines(data) {
        assert!(lines.iter().all(|line| !line.path.contains('\u{1b}') && !line.value.contains('\u{1b}')));
    }
});
