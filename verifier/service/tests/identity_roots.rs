//! The folder of trusted roots: what goes in is a CA's certificate, and what is wrong in it is said by name.

use std::{fs, path::Path, path::PathBuf};

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tempfile::TempDir;
use verifier::identity::{EkRoots, RootClass, RootsError};

fn vector_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/ek").join(name)
}

fn now() -> Timestamp {
    "2026-12-01T00:00:00Z".parse().unwrap()
}

fn empty() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn add(dir: &TempDir, file: &Path, class: RootClass) -> Result<usize, RootsError> {
    EkRoots::add(dir.path(), file, class, now()).map(|roots| roots.len())
}

#[test]
fn an_added_root_is_listed_with_its_class_and_adding_it_again_changes_nothing() {
    let dir = empty();
    let (root, issuer) = (vector_path("root.pem"), vector_path("issuer.pem"));
    for _ in 0..2 {
        assert_eq!(add(&dir, &root, RootClass::Software).unwrap(), 1);
    }
    assert_eq!(add(&dir, &issuer, RootClass::Software).unwrap(), 1);

    let roots = EkRoots::load(dir.path()).unwrap();
    assert_eq!(roots.list().len(), 2);
    let listed = roots.list().iter().find(|r| r.subject() == "CN=swtpm-localca-rootca").unwrap();
    let der = CertificateDer::from_pem_slice(&fs::read(&root).unwrap()).unwrap();
    assert_eq!(listed.fingerprint(), digest(&SHA256, &der).as_ref());
    assert_eq!(listed.class(), RootClass::Software);
    assert_eq!(listed.not_after(), "9999-12-31T23:59:59Z");
}

#[test]
fn a_bundle_of_several_cas_is_taken_apart() {
    let dir = empty();
    let bundle = dir.path().join("bundle.txt");
    let both = ["root.pem", "issuer.pem"].map(|name| fs::read(vector_path(name)).unwrap()).concat();
    fs::write(&bundle, both).unwrap();
    assert_eq!(add(&dir, &bundle, RootClass::Hardware).unwrap(), 2);
    assert_eq!(EkRoots::load(dir.path()).unwrap().list().len(), 2);
}

#[test]
fn a_root_in_both_classes_is_refused() {
    let dir = empty();
    add(&dir, &vector_path("root.pem"), RootClass::Hardware).unwrap();
    let refused = add(&dir, &vector_path("root.pem"), RootClass::Software).unwrap_err();
    assert!(matches!(refused, RootsError::BothClasses { .. }), "{refused}");
    assert!(!dir.path().join("software").exists());

    fs::create_dir(dir.path().join("software")).unwrap();
    fs::copy(vector_path("root.pem"), dir.path().join("software/again.pem")).unwrap();
    assert!(matches!(EkRoots::load(dir.path()), Err(RootsError::BothClasses { .. })));
}

#[test]
fn what_is_no_ca_certificate_is_named_and_not_copied() {
    let dir = empty();
    let broken = dir.path().join("broken.txt");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n").unwrap();
    for (file, why) in [(vector_path("ek-ecc384.crt"), "not a CA's"), (broken, "not an X.509 certificate")] {
        let refused = add(&dir, &file, RootClass::Hardware).unwrap_err().to_string();
        assert!(refused.contains(why) && refused.contains(file.to_str().unwrap()), "{refused}");
    }
    assert!(EkRoots::load(dir.path()).unwrap().list().is_empty());
}

#[test]
fn a_missing_folder_and_unreadable_entries_are_errors_and_never_fewer_roots() {
    let dir = empty();
    assert!(matches!(EkRoots::load(&dir.path().join("absent")), Err(RootsError::Io { .. })));
    for (name, content) in [("x.pem", "nothing"), ("crl/x.crl", "nothing"), ("crl/x.pem", "nothing")] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let refused = EkRoots::load(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(path.to_str().unwrap()), "{refused}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn an_expired_ca_is_not_added() {
    let dir = empty();
    let late: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
    let refused = EkRoots::add(dir.path(), &vector_path("root.pem"), RootClass::Software, late).unwrap_err();
    assert!(refused.to_string().contains("expired or not yet valid"), "{refused}");
}
