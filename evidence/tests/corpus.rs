//! The fuzz targets over their committed corpus, each input also cut short and with bits flipped: on the stable
//! compiler, in every test run.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[allow(unreachable_pub, reason = "public for the fuzz package, which has it as its library")]
#[path = "../../tests/fuzz/src/lib.rs"]
mod fuzz;

/// Variants of one input, at most, of each kind: the whole corpus takes a second or two.
const VARIANTS: usize = 64;

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../tests/fuzz/corpus", target].iter().collect();
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| file.unwrap().path()).collect()
}

fn run_with_variants(run: fn(&[u8]), path: &Path) {
    let input = fs::read(path).unwrap();
    run(&input);
    let step = (input.len() / VARIANTS).max(1);
    for at in (0..input.len()).step_by(step) {
        run(&input[..at]);
        let mut flipped = input.clone();
        flipped[at] ^= 1 << (at / step % 8);
        run(&flipped);
        let mut longer = input.clone();
        longer.insert(at, 0xFF);
        run(&longer);
    }
}

fn run_target(name: &str) {
    let (_, run) = fuzz::TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    let files = corpus(name);
    assert!(!files.is_empty(), "{name} has no corpus");
    files.iter().for_each(|path| run_with_variants(run, path));
}

macro_rules! corpora {
    ($($target:ident),*) => {
        $(#[test] fn $target() { run_target(stringify!($target)); })*

        #[test]
        fn every_target_runs_here() {
            assert_eq!(fuzz::TARGETS.map(|(name, _)| name), [$(stringify!($target)),*]);
        }
    };
}

corpora!(evidence, enrolment, tpm, event_log, ima_list, runtime_log, cbor);
