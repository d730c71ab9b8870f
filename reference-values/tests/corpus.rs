//! The fuzz target `release` over its committed corpus, each input also cut short and with bits flipped: on the stable
//! compiler, in every test run.

use std::{fs, path::PathBuf};

use reference_values::SignedDocument;

fn run(data: &[u8]) {
    if let Ok(release) = SignedDocument::decode(data) {
        assert_eq!(SignedDocument::decode(&release.encode()).as_ref(), Ok(&release));
    }
}

#[test]
fn no_file_of_a_release_does_harm_and_what_decodes_can_be_written_again() {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../tests/fuzz/corpus/release"].iter().collect();
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!files.is_empty());
    for input in files {
        run(&input);
        for at in (0..input.len()).step_by((input.len() / 256).max(1)) {
            run(&input[..at]);
            let mut flipped = input.clone();
            flipped[at] ^= 1 << (at % 8);
            run(&flipped);
        }
    }
}
