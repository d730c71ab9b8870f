//! The fuzz targets `release` and `corim_view` over their committed corpora, each input also cut short and with bits flipped: on the stable
//! compiler, in every test run.

use std::{fs, path::PathBuf};

use reference_values::{SignedDocument, corim_view};

fn release(data: &[u8]) {
    if let Ok(release) = SignedDocument::decode(data) {
        assert_eq!(SignedDocument::decode(&release.encode()).as_ref(), Ok(&release));
    }
}

fn view(data: &[u8]) {
    if let Ok(lines) = corim_view::lines(data) {
        assert!(lines.iter().all(|line| !line.path.contains('\u{1b}') && !line.value.contains('\u{1b}')));
    }
}

fn over_corpus(name: &str, run: impl Fn(&[u8])) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../tests/fuzz/corpus", name].iter().collect();
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

#[test]
fn no_file_of_a_release_does_harm_and_what_decodes_can_be_written_again() {
    over_corpus("release", release);
}

#[test]
fn no_file_that_is_shown_does_harm_or_commands_the_terminal() {
    over_corpus("corim_view", view);
}
