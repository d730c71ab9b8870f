//! `STATEMENTS.md` against the code: in go the table and the sources, and every test that it names exists, every test of
//! this suite is named in it, and every statement that it quotes of a document stands there word for word.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// One row: what is said, where, and by which tests it is held.
struct Row {
    quoted: String,
    place: String,
    tests: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rows() -> Vec<Row> {
    let table = read(&root().join("tests/adversary/STATEMENTS.md"));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = table.lines().filter(|line| line.starts_with('|')).map(cells);
    rows.filter(|cells| cells.len() == 3 && cells[0] != "statement" && !cells[0].starts_with("--"))
        .map(|cells| {
            let tests = cells[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
            Row { quoted: cells[0].clone(), place: cells[1].clone(), tests }
        })
        .collect()
}

/// `module::test` of every test in this folder.
fn own_tests() -> BTreeSet<String> {
    let folder = root().join("tests/adversary");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "rs") {
            let module = path.file_stem().unwrap().to_string_lossy().into_owned();
            found.extend(tests_of(&read(&path)).map(|test| format!("{module}::{test}")));
        }
    }
    found
}

fn tests_of(source: &str) -> impl Iterator<Item = &str> {
    let mut lines = source.lines().map(str::trim);
    std::iter::from_fn(move || {
        lines.by_ref().find(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))?;
        let line = lines.by_ref().find(|line| line.contains("fn "))?;
        line.split_once("fn ")?.1.split_once('(').map(|(name, _)| name)
    })
}

#[test]
fn every_test_that_is_named_exists_and_every_test_here_is_named() {
    let own = own_tests();
    let mut named = BTreeSet::new();
    for Row { quoted, tests, .. } in rows() {
        assert!(!tests.is_empty(), "no test holds: {quoted}");
        for test in tests {
            let Some((file, name)) = test.split_once(".rs::") else {
                assert!(own.contains(&test), "{quoted}: there is no {test}");
                named.insert(test);
                continue;
            };
            let source = read(&root().join(format!("{file}.rs")));
            assert!(tests_of(&source).any(|known| known == name), "{quoted}: there is no {test}");
        }
    }
    let unnamed: Vec<_> = own.difference(&named).collect();
    assert!(unnamed.is_empty(), "STATEMENTS.md names no statement for {unnamed:?}");
}

#[test]
fn every_statement_is_quoted_as_the_document_says_it() {
    let words = |text: &str| text.replace("**", "").split_whitespace().collect::<Vec<_>>().join(" ");
    for Row { quoted, place, .. } in rows() {
        let Some((document, _)) = place.split_once(" §") else { continue };
        let document_says = words(&read(&root().join(document)));
        for part in words(&quoted).split(" … ") {
            assert!(document_says.contains(part), "{place} does not say: {part}");
        }
    }
}
