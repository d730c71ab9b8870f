//! libFuzzer over files of releases: whatever decodes, decodes to the same after it was written again.
#![no_main]

use reference_values::SignedDocument;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(release) = SignedDocument::decode(data) {
        assert_eq!(SignedDocument::decode(&release.encode()).as_ref(), Ok(&release));
    }
});
