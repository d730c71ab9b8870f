//! EK certificates: those of a real software TPM hold, and each way to bend one is refused with its own code.

use std::{fs, path::Path, path::PathBuf};

use evidence::{claims::DeviceId, limits, tpm::EkKey};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use ring::digest::{SHA256, digest};
use tempfile::TempDir;
use verifier::identity::{
    CertificateFault, DenyList, DeviceIdentity, EkChain, EkRoots, IdentityError, RootClass, VerifiedEk, check_template,
};
use x509_cert::der::{Decode as _, Encode as _};

fn vector(name: &str) -> Vec<u8> {
    fs::read(vector_path(name)).unwrap()
}

fn vector_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/ek").join(name)
}

fn issuer_der() -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    CertificateDer::from_pem_slice(&vector("issuer.pem")).unwrap().to_vec()
}

fn now() -> Timestamp {
    "2026-12-01T00:00:00Z".parse().unwrap()
}

/// A folder of roots with these files, by name below it.
fn roots(files: &[(&str, &[u8])]) -> (TempDir, EkRoots) {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let roots = EkRoots::load(dir.path()).unwrap();
    (dir, roots)
}

fn verify(certificates: &[&[u8]], roots: &EkRoots) -> Result<DeviceIdentity, IdentityError> {
    DeviceIdentity::from_eks(EkChain::read(certificates)?.verify(roots, now())?)
}

/// The leaf's faults, where the first certificate is to blame.
fn fault(result: Result<DeviceIdentity, IdentityError>) -> CertificateFault {
    match result {
        Err(IdentityError::EkCertificate { certificate: 1, why }) => why,
        other => panic!("not a faulty certificate: {other:?}"),
    }
}

fn is_untrusted(result: Result<DeviceIdentity, IdentityError>) -> bool {
    matches!(result, Err(IdentityError::UntrustedRoot { certificate: 1, .. }))
}

/// A CA for tests, with what rcgen needs to sign as it.
struct Ca {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Ca {
    fn root(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { der, issuer: Issuer::new(params, key) }
    }

    fn below(above: &Self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params("intermediate");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &above.issuer).unwrap().der().to_vec();
        Self { der, issuer: Issuer::new(params, key) }
    }

    fn signs(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(77_u64));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        change(&mut params);
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    fn signs_ek(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        self.signs(&p256(), change)
    }
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn p384() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap()
}

#[test]
fn certificates_of_a_software_tpm_verify_and_the_id_is_that_of_the_ecc_key_in_any_order() {
    let (_dir, roots) = roots(&[("software/root.pem", &vector("root.pem"))]);
    let (rsa, ecc, issuer) = (vector("ek-rsa2048.crt"), vector("ek-ecc384.crt"), issuer_der());
    let identity = verify(&[&rsa, &ecc, &issuer], &roots).unwrap();
    assert_eq!(identity.id(), verify(&[&issuer, &ecc, &rsa], &roots).unwrap().id());
    assert_eq!(identity.class(), RootClass::Software);

    let [first, second] = identity.eks() else { panic!("two keys") };
    assert!(matches!((first.key(), second.key()), (EkKey::P384(_), EkKey::Rsa2048(_))));
    assert_eq!(identity.id(), DeviceId(*first.spki_digest()));
    // Computed with `openssl x509 -pubkey`, `openssl pkey -pubin -outform der`, `sha256sum`.
    assert_eq!(identity.id().to_string(), "4a8ecda2be6ad1d2d8884b9840432dc2d149f4dbcf6310c40ca5dd4cb9f12793");
    assert_eq!(first.leaf_der_digest(), digest(&SHA256, &ecc).as_ref());
    assert_eq!(first.make().unwrap().manufacturer, "id:00001014");
    assert_eq!(first.make().unwrap().model, "swtpm");
}

#[test]
fn an_issuing_ca_may_be_the_root_itself() {
    let (_dir, roots) = roots(&[("software/issuer.pem", &vector("issuer.pem"))]);
    let identity = verify(&[&vector("ek-ecc384.crt")], &roots).unwrap();
    assert_eq!(identity.eks()[0].root_fingerprint(), digest(&SHA256, &issuer_der()).as_ref());
}

#[test]
fn public_areas_of_a_software_tpm_equal_the_templates_and_with_any_bit_flipped_they_do_not() {
    let (_dir, roots) = roots(&[("software/issuer.pem", &vector("issuer.pem"))]);
    let identity = verify(&[&vector("ek-ecc384.crt"), &vector("ek-rsa2048.crt")], &roots).unwrap();
    for (ek, sent) in identity.eks().iter().zip(["ek-ecc384.pub", "ek-rsa2048.pub"]) {
        let mut sent = vector(sent);
        check_template(&sent, ek).unwrap();
        check_template(&sent[2..], ek).unwrap();
        for bit in 0..sent.len() * 8 {
            sent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check_template(&sent, ek), Err(IdentityError::EkTemplate), "bit {bit}");
            sent[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_certificate_with_any_byte_changed_or_cut_off_is_refused() {
    let (_dir, roots) = roots(&[("software/issuer.pem", &vector("issuer.pem"))]);
    let good = vector("ek-ecc384.crt");
    for at in 0..good.len() {
        let mut bent = good.clone();
        bent[at] ^= 0x20;
        assert!(verify(&[&bent], &roots).is_err(), "byte {at}");
        assert!(verify(&[&good[..at]], &roots).is_err(), "length {at}");
    }
}

#[test]
fn nv_padding_of_zeros_or_ones_is_trimmed_and_anything_else_refused() {
    let (_dir, roots) = roots(&[("software/issuer.pem", &vector("issuer.pem"))]);
    let good = vector("ek-rsa2048.crt");
    let plain = verify(&[&good], &roots).unwrap();
    for byte in [0x00, 0xFF] {
        let padded = verify(&[&[good.clone(), vec![byte; 300]].concat()], &roots).unwrap();
        assert_eq!(padded.eks(), plain.eks());
    }
    for junk in [&[0, 0xFF][..], &[1], &good] {
        let bent = [&good, junk].concat();
        assert_eq!(fault(verify(&[&bent], &roots)), CertificateFault::Malformed);
    }
}

#[test]
fn another_root_of_the_same_name_is_not_trusted() {
    let (real, other) = (Ca::root("maker", |_| {}), Ca::root("maker", |_| {}));
    let (_dir, roots) = roots(&[("maker.der", &other.der)]);
    let result = verify(&[&real.signs_ek(|_| {})], &roots);
    assert_eq!(result.as_ref().unwrap_err().code(), "identity.ek-untrusted");
    assert!(is_untrusted(result));
    // Sending the root along helps no one.
    assert!(is_untrusted(verify(&[&real.signs_ek(|_| {}), &real.der], &roots)));
}

#[test]
fn a_missing_intermediate_leaves_the_chain_untrusted_and_names_the_issuer() {
    let (_dir, roots) = roots(&[("software/root.pem", &vector("root.pem"))]);
    let refused = verify(&[&vector("ek-ecc384.crt")], &roots).unwrap_err();
    assert_eq!(refused, IdentityError::UntrustedRoot { certificate: 1, issuer: "CN=swtpm-localca".into() });
}

#[test]
fn a_leaf_without_the_tcg_key_purpose_is_refused() {
    let ca = Ca::root("maker", |_| {});
    let (_dir, roots) = roots(&[("maker.der", &ca.der)]);
    let none = ca.signs_ek(|leaf| leaf.extended_key_usages.clear());
    let other = ca.signs_ek(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    for leaf in [none, other] {
        assert_eq!(fault(verify(&[&leaf], &roots)), CertificateFault::ExtendedKeyUsage);
    }
    verify(&[&ca.signs_ek(|_| {})], &roots).unwrap();
}

#[test]
fn a_leaf_whose_key_usage_is_missing_or_for_signing_is_refused() {
    let ca = Ca::root("maker", |_| {});
    let (_dir, roots) = roots(&[("maker.der", &ca.der)]);
    for usages in [vec![], vec![KeyUsagePurpose::DigitalSignature], vec![KeyUsagePurpose::KeyEncipherment]] {
        let leaf = ca.signs_ek(|leaf| leaf.key_usages = usages);
        assert_eq!(fault(verify(&[&leaf], &roots)), CertificateFault::KeyUsage);
    }
}

#[test]
fn expired_and_future_certificates_are_refused_at_every_level() {
    let past = |params: &mut CertificateParams| params.not_after = date_time_ymd(2026, 11, 30);
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(2026, 12, 2);
    let ca = Ca::root("maker", |_| {});
    let (_dir, roots_of_ca) = roots(&[("maker.der", &ca.der)]);
    for leaf in [ca.signs_ek(past), ca.signs_ek(future)] {
        assert_eq!(fault(verify(&[&leaf], &roots_of_ca)), CertificateFault::Validity);
    }
    let old = Ca::below(&ca, past);
    assert_eq!(fault(verify(&[&old.signs_ek(|_| {}), &old.der], &roots_of_ca)), CertificateFault::Validity);

    let ended = Ca::root("ended", past);
    let (_dir, roots_of_ended) = roots(&[("ended.der", &ended.der)]);
    assert!(is_untrusted(verify(&[&ended.signs_ek(|_| {})], &roots_of_ended)));
}

#[test]
fn a_ca_is_no_endorsement_key_and_an_endorsement_key_is_no_ca() {
    let ca = Ca::root("maker", |_| {});
    let (_dir, roots) = roots(&[("maker.der", &ca.der)]);
    let leaf_as_ca = ca.signs_ek(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(verify(&[&leaf_as_ca], &roots).unwrap_err(), IdentityError::NoEkCertificate);
    assert_eq!(verify(&[], &roots).unwrap_err().code(), "identity.no-ek-certificate");

    // The holder of a certified key signs a certificate of its own with it.
    let not_a_ca = Ca::below(&ca, |leaf| {
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    });
    assert!(is_untrusted(verify(&[&not_a_ca.signs_ek(|_| {}), &not_a_ca.der], &roots)));
}

#[test]
fn a_ca_that_may_not_sign_certificates_ends_the_path() {
    let ca = Ca::root("maker", |_| {});
    let (_dir, roots) = roots(&[("maker.der", &ca.der)]);
    let wrong = Ca::below(&ca, |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert!(is_untrusted(verify(&[&wrong.signs_ek(|_| {}), &wrong.der], &roots)));
    let right = Ca::below(&ca, |_| {});
    verify(&[&right.signs_ek(|_| {}), &right.der], &roots).unwrap();
}

#[test]
fn keys_that_no_template_has_are_refused() {
    let ca = Ca::root("maker", |_| {});
    let (_dir, roots) = roots(&[("maker.der", &ca.der)]);
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert_eq!(fault(verify(&[&ca.signs(&key, |_| {})], &roots)), CertificateFault::Key);
}

#[test]
fn the_id_prefers_p256_and_two_keys_of_one_kind_are_refused() {
    let ca = Ca::root("maker", |_| {});
    let (_dir, roots) = roots(&[("maker.der", &ca.der)]);
    let (low, high) = (ca.signs_ek(|_| {}), ca.signs(&p384(), |_| {}));
    let identity = verify(&[&high, &low], &roots).unwrap();
    assert!(matches!(identity.eks().first().map(VerifiedEk::key), Some(EkKey::P256(_))));
    assert_eq!(identity.class(), RootClass::Hardware);
    assert_eq!(verify(&[&low, &low], &roots).unwrap().eks().len(), 1);
    let second = verify(&[&low, &ca.signs_ek(|_| {})], &roots).unwrap_err();
    let expected = IdentityError::EkCertificate { certificate: 2, why: CertificateFault::SecondOfItsKind };
    assert_eq!(second, expected);
}

#[test]
fn a_software_root_never_passes_for_hardware() {
    let (hardware, software) = (Ca::root("chips", |_| {}), Ca::root("emulators", |_| {}));
    let (_dir, both) = roots(&[("chips.der", &hardware.der), ("software/emulators.der", &software.der)]);
    let (chip, emulator) = (hardware.signs_ek(|_| {}), software.signs(&p384(), |_| {}));
    assert_eq!(verify(&[&chip], &both).unwrap().class(), RootClass::Hardware);
    assert_eq!(verify(&[&emulator], &both).unwrap().class(), RootClass::Software);
    assert_eq!(verify(&[&chip, &emulator], &both).unwrap().class(), RootClass::Software);

    // An intermediate listed as software below a root of hardware.
    let below = Ca::below(&hardware, |_| {});
    let (_dir, nested) = roots(&[("chips.der", &hardware.der), ("software/below.der", &below.der)]);
    assert_eq!(verify(&[&below.signs_ek(|_| {}), &below.der], &nested).unwrap().class(), RootClass::Software);
}

#[test]
fn more_certificates_or_bytes_than_an_enrolment_has_are_refused_unread() {
    let (_dir, roots) = roots(&[]);
    let many = vec![&[][..]; limits::MAX_EK_CERTIFICATES + 1];
    let large = vec![0; limits::MAX_EK_CERTIFICATE_BYTES + 1];
    assert_eq!(verify(&many, &roots).unwrap_err(), IdentityError::TooLarge);
    assert_eq!(verify(&[&large], &roots).unwrap_err(), IdentityError::TooLarge);
}

/// A deny list as an operator writes it.
fn deny(text: &str) -> DenyList {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("deny.toml"), text).unwrap();
    DenyList::load(&dir.path().join("deny.toml")).unwrap()
}

fn spki_digest(der: &[u8]) -> String {
    let certificate = x509_cert::Certificate::from_der(der).unwrap();
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der().unwrap();
    data_encoding::HEXLOWER.encode(digest(&SHA256, &spki).as_ref())
}

#[test]
fn a_denied_key_its_issuer_any_ca_above_it_and_its_maker_are_refused() {
    let root = Ca::root("maker", |_| {});
    let below = Ca::below(&root, |_| {});
    let (leaf, direct) = (below.signs_ek(|_| {}), root.signs_ek(|_| {}));
    let (dir, open) = roots(&[("maker.der", &root.der)]);
    let id = verify(&[&leaf, &below.der], &open).unwrap().id();
    let under = |text: &str, certificates: &[&[u8]]| {
        let roots = EkRoots::load(dir.path()).unwrap().denying(deny(text));
        verify(certificates, &roots).map_err(|error| (error.code(), error.to_string()))
    };
    let through = [leaf.as_slice(), &below.der];
    for entry in [
        format!("[[ek]]\nsha256 = \"{id}\"\nwhy = \"the lorry\""),
        format!("[[issuer]]\nkey = \"{}\"\nwhy = \"the lorry\"", spki_digest(&below.der)),
        format!("[[issuer]]\nkey = \"{}\"\nwhy = \"the lorry\"", spki_digest(&root.der)),
        "[[issuer]]\nsubject = \"CN=intermediate\"\nwhy = \"the lorry\"".to_owned(),
    ] {
        let (code, said) = under(&entry, &through).unwrap_err();
        assert!(code == "identity.ek-denied" && said.contains("the lorry"), "{entry}: {said}");
    }
    let other = format!("[[issuer]]\nkey = \"{}\"\nwhy = \"x\"", spki_digest(&below.der));
    under(&other, &[&direct]).unwrap();

    // A name as `roots list` shows it, however long it is.
    let long = Ca::root(&format!("a\u{1b}b{}", "c".repeat(300)), |_| {});
    let (dir, open) = roots(&[("long.der", &long.der)]);
    let list = deny(&format!("[[issuer]]\nsubject = '{}'\nwhy = \"x\"", open.list()[0].subject()));
    let denying = EkRoots::load(dir.path()).unwrap().denying(list);
    assert_eq!(verify(&[&long.signs_ek(|_| {})], &denying).unwrap_err().code(), "identity.ek-denied");

    let (dir, _) = roots(&[("software/root.pem", &vector("root.pem"))]);
    let list = deny("[[manufacturer]]\nid = \"id:00001014\"\nwhy = \"x\"");
    let denying = EkRoots::load(dir.path()).unwrap().denying(list);
    let refused = verify(&[&vector("ek-rsa2048.crt"), &issuer_der()], &denying).unwrap_err();
    assert_eq!(refused.code(), "identity.ek-denied");
}

fn crl(by: &Ca, serials: &[u64], change: impl FnOnce(&mut CertificateRevocationListParams)) -> Vec<u8> {
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2026, 11, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let mut list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 11, 1),
        next_update: date_time_ymd(2026, 11, 2),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    change(&mut list);
    list.signed_by(&by.issuer).unwrap().der().to_vec()
}

#[test]
fn a_revoked_certificate_is_refused_and_its_neighbour_is_not() {
    let ca = Ca::root("maker", |_| {});
    let (_dir, revoking) = roots(&[("maker.der", &ca.der), ("crl/maker.crl", &crl(&ca, &[77], |_| {}))]);
    assert_eq!(verify(&[&ca.signs_ek(|_| {})], &revoking).unwrap_err().code(), "identity.ek-revoked");
    let other = ca.signs_ek(|leaf| leaf.serial_number = Some(SerialNumber::from(78_u64)));
    verify(&[&other], &revoking).unwrap();
}

#[test]
fn a_crl_covers_intermediates_and_an_intermediate_may_have_one_of_its_own() {
    let root = Ca::root("maker", |_| {});
    let below = Ca::below(&root, |ca| ca.serial_number = Some(SerialNumber::from(5_u64)));
    let leaf = below.signs_ek(|_| {});
    let (_dir, of_root) = roots(&[("maker.der", &root.der), ("crl/root.crl", &crl(&root, &[5], |_| {}))]);
    assert_eq!(verify(&[&leaf, &below.der], &of_root).unwrap_err().code(), "identity.ek-revoked");

    let list = crl(&below, &[77], |_| {});
    let files: [(&str, &[u8]); 3] = [("maker.der", &root.der), ("crl/below.der", &below.der), ("crl/below.crl", &list)];
    let (_dir, of_below) = roots(&files);
    assert_eq!(verify(&[&leaf, &below.der], &of_below).unwrap_err().code(), "identity.ek-revoked");
    let neighbour = below.signs_ek(|leaf| leaf.serial_number = Some(SerialNumber::from(6_u64)));
    verify(&[&neighbour, &below.der], &of_below).unwrap();
    // That its certificate lies there makes it no root: without the root, nothing leads anywhere.
    let (_dir, no_root) = roots(&files[1..]);
    assert!(is_untrusted(verify(&[&neighbour, &below.der], &no_root)));
    // Without its certificate the list is a stranger's.
    let refused = load_refused(&[files[0], files[2]]);
    assert!(refused.contains("below.crl") && refused.contains("neither a root"), "{refused}");
}

fn load_refused(files: &[(&str, &[u8])]) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("crl")).unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    EkRoots::load(dir.path()).unwrap_err().to_string()
}

#[test]
fn a_crl_by_a_stranger_or_by_no_right_is_refused_when_it_is_read() {
    let (ca, namesake) = (Ca::root("maker", |_| {}), Ca::root("maker", |_| {}));
    let mute = Ca::root("maker", |ca| ca.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    // rcgen signs with any key; the name is the maker's each time.
    let by_mute = crl(&Ca { der: Vec::new(), issuer: Issuer::new(ca_params("maker"), mute_key(&mute)) }, &[77], |_| {});
    let good = crl(&ca, &[77], |_| {});
    let mut bent = good.clone();
    *bent.last_mut().unwrap() ^= 1;
    let newer = crl(&ca, &[78], |list| list.crl_number = SerialNumber::from(2_u64));
    let signs = "did not sign it";
    for (files, why) in [
        ([("maker.der", &ca.der), ("crl/a.crl", &crl(&namesake, &[77], |_| {}))], signs),
        ([("maker.der", &mute.der), ("crl/a.crl", &by_mute)], signs),
        ([("maker.der", &ca.der), ("crl/a.crl", &bent)], signs),
        ([("maker.der", &ca.der), ("crl/a.crl", &good[..good.len() - 1].to_vec())], "not a whole"),
        ([("maker.der", &ca.der), ("crl/a.crl", &crl(&Ca::root("other", |_| {}), &[], |_| {}))], "neither a root"),
    ] {
        let files = files.map(|(name, content)| (name, content.as_slice()));
        let refused = load_refused(&files);
        assert!(refused.contains("a.crl") && refused.contains(why), "{refused}");
    }
    // One of both would never be looked at.
    let refused = load_refused(&[("maker.der", &ca.der), ("crl/a.crl", &good), ("crl/b.crl", &newer)]);
    assert!(refused.contains("b.crl") && refused.contains("older one"), "{refused}");
}

fn mute_key(ca: &Ca) -> KeyPair {
    KeyPair::try_from(ca.issuer.key().serialize_der()).unwrap()
}
