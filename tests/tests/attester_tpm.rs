//! The attester's lower half against a software TPM: keys, quotes, credentials, and a runtime log that crashes, reboots
//! and tampering meet.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
    process::Command,
};

use attester::{
    runtime_log::{LogProblem, RuntimeLog, RuntimeLogError},
    sweep::{MeasuredFile, Sweep, Sweeper},
    tpm::{EkKind, RuntimePcr, Tpm, TpmConfig, TpmError},
};
use devices::swtpm::Swtpm;
use evidence::{
    pcr::{extend_sha256, sha256},
    runtime_log::{Entry, Flags, Kind, entries, replay},
    tpm::{AK_ATTRIBUTES, Attest, EkKey, Public, tpm2b},
};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

const PCR: RuntimePcr = RuntimePcr::DEFAULT;
const START: [u8; 32] = [0; 32];

/// A TPM, the attester on it when `open`ed, and tpm2-tools when not: swtpm serves one client at a time.
struct Bench {
    swtpm: Swtpm,
    state: PathBuf,
}

impl Bench {
    fn start() -> Self {
        let swtpm = Swtpm::start();
        let state = swtpm.dir().join("attester");
        Self { swtpm, state }
    }

    /// With a TPM that has no EK certificate.
    fn uncertified() -> Self {
        let swtpm = Swtpm::start_uncertified();
        let state = swtpm.dir().join("attester");
        Self { swtpm, state }
    }

    fn config(&self) -> TpmConfig {
        TpmConfig { tcti: self.swtpm.tcti.clone(), endorsement_auth: Default::default(), ak_counter: 0 }
    }

    fn tpm(&self) -> Tpm {
        Tpm::open(&self.config()).unwrap()
    }

    fn log(&self, tpm: &mut Tpm) -> RuntimeLog {
        RuntimeLog::open(&self.state, PCR, START, tpm).unwrap()
    }

    fn log_file(&self) -> PathBuf {
        self.state.join("runtime.log")
    }

    fn append(&self, bytes: &[u8]) {
        OpenOptions::new().append(true).open(self.log_file()).unwrap().write_all(bytes).unwrap();
    }

    /// Runs one of the tpm2-tools that has to succeed.
    fn tool(&self, tool: &str, arguments: &[&str]) {
        let (done, said) = self.run(tool, arguments);
        assert!(done, "tpm2_{tool}: {said}");
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(format!("tpm2_{tool}"));
        command.args(arguments).current_dir(self.swtpm.dir()).env("TPM2TOOLS_TCTI", &self.swtpm.tcti);
        let output = command.output().expect("tpm2-tools is installed");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn entry(path: &str) -> Entry<'_> {
    let digest = sha256(path.as_bytes());
    let (kind, flags) = (Kind::Executable, Flags::SWEEP);
    Entry { kind, digest, size: 1, device: 2, inode: 3, flags, start_time: 4, path: path.as_bytes() }
}

fn sweep_of(paths: &[&str]) -> Sweep {
    let file = |path: &&str| MeasuredFile {
        path: path.as_bytes().to_vec(),
        digest: sha256(path.as_bytes()),
        size: 1,
        device: 2,
        inode: 3,
        kind: Kind::Executable,
        changed: false,
        cached: false,
        started: 4,
    };
    Sweep { files: paths.iter().map(file).collect(), ..Sweep::default() }
}

/// Measures `paths` in a new log, as an attester does that has just started.
fn measure(bench: &Bench, tpm: &mut Tpm, paths: &[&str]) {
    bench.log(tpm).lock(tpm).unwrap().measure(&sweep_of(paths)).unwrap();
}

/// What must always hold: the quoted PCRs are those that the log replays to.
fn log_leads_to_the_quote(log: &mut RuntimeLog, tpm: &mut Tpm) -> u64 {
    let mut locked = log.lock(tpm).unwrap();
    let quote = locked.quote(&[1; 32]).unwrap();
    let values = locked.tpm().pcr_values().unwrap();
    let attest = Attest::read(&quote.attest).unwrap();
    assert_eq!(attest.profile_pcr_digest().unwrap(), values.quote_digest());
    let replayed = replay(START, locked.bytes_from(0), PCR.index().into(), 0).unwrap();
    assert_eq!(values.get(PCR.index().into()), Some(&replayed.value));
    assert_eq!((replayed.next_index, replayed.value), (locked.count(), locked.value()));
    locked.count()
}

#[test]
fn quotes_and_signatures_hold_by_the_attestation_key_and_say_what_was_asked() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    let ak = *tpm.ak_public();
    assert_eq!(Public::read(&ak.area()).unwrap().attributes, AK_ATTRIBUTES);
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, ak.point().uncompressed());
    for round in 0..20 {
        let extra_data = [round; 32];
        let quote = tpm.quote(&extra_data).unwrap();
        key.verify(&quote.attest, &quote.signature).unwrap();
        let attest = Attest::read(&quote.attest).unwrap();
        assert_eq!(attest.extra_data, extra_data);
        assert_eq!(attest.qualified_signer, ak.qualified_name());
        assert_eq!(attest.profile_pcr_digest().unwrap(), tpm.pcr_values().unwrap().quote_digest());
    }
    for length in [0, 1, 1023, 1024] {
        let message = vec![length as u8; length];
        key.verify(&message, &tpm.sign(&message).unwrap()).unwrap();
    }
    assert!(matches!(tpm.sign(&[0; 1025]), Err(TpmError::TooLong(1025))));
    // What begins like the TPM's own structures is not signed for anyone.
    let forged = tpm.quote(&[9; 32]).unwrap().attest;
    assert!(matches!(tpm.sign(&forged), Err(TpmError::Command { .. })));
}

#[test]
fn tpm2_checkquote_accepts_our_quote() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    tpm.extend(PCR, &[3; 32]).unwrap();
    let quote = tpm.quote(&[7; 32]).unwrap();
    let values = tpm.pcr_values().unwrap().to_bytes();
    let signature = {
        // TPMT_SIGNATURE: ECDSA, SHA-256, r, s.
        let (r, s) = quote.signature.split_at(32);
        [&[0x00, 0x18, 0x00, 0x0B][..], &tpm2b(r), &tpm2b(s)].concat()
    };
    let file = |name: &str, content: &[u8]| fs::write(bench.swtpm.dir().join(name), content).unwrap();
    file("ak.pub", &tpm2b(&tpm.ak_public().area()));
    file("quote.msg", &quote.attest);
    file("quote.sig", &signature);
    file("quote.pcrs", &as_tpm2_quote_writes(&values));
    let nonce = "07".repeat(32);
    let check = |pcrs| {
        let files = ["-u", "ak.pub", "-m", "quote.msg", "-s", "quote.sig", "-f", pcrs, "-g", "sha256", "-q", &nonce];
        bench.run("checkquote", &files).0
    };
    assert!(check("quote.pcrs"));
    let mut other = values.clone();
    other[14 * 32] ^= 1;
    file("other.pcrs", &as_tpm2_quote_writes(&other));
    assert!(!check("other.pcrs"));
}

/// TPML_PCR_SELECTION, number of lists, TPML_DIGEST of 8 each, all as C lays them out in memory: plain values of more
/// than 8 PCRs are refused by tpm2_checkquote 5.4.
fn as_tpm2_quote_writes(values: &[u8]) -> Vec<u8> {
    let selection =
        [&1_u32.to_le_bytes()[..], &0x000B_u16.to_le_bytes(), &[3, 0xFF, 0xFF, 0, 0, 0], &[0; 15 * 8]].concat();
    let digest = |value: &[u8]| [&32_u16.to_le_bytes()[..], value, &[0; 32]].concat();
    let list = |values: &[u8]| [8_u32.to_le_bytes().to_vec(), values.chunks(32).flat_map(digest).collect()].concat();
    [selection, 2_u32.to_le_bytes().to_vec(), values.chunks(8 * 32).flat_map(list).collect()].concat()
}

#[test]
fn the_attestation_key_is_the_same_after_tpm2_clear_and_another_with_another_counter() {
    let mut bench = Bench::start();
    let before = *bench.tpm().ak_public();
    bench.tool("clear", &["-c", "p"]);
    assert_eq!(*bench.tpm().ak_public(), before);
    bench.swtpm.power_cycle().unwrap();
    assert_eq!(*bench.tpm().ak_public(), before);
    let renewed = TpmConfig { ak_counter: 1, ..bench.config() };
    assert_ne!(*Tpm::open(&renewed).unwrap().ak_public(), before);
}

#[test]
fn endorsement_keys_come_with_their_certificates_also_when_clear_has_evicted_them() {
    let bench = Bench::start();
    let before = bench.tpm().endorsement_keys().unwrap();
    let kinds: Vec<_> = before.keys.iter().map(|key| key.kind).collect();
    assert_eq!(kinds, [EkKind::P384, EkKind::Rsa2048]);
    for (key, file) in before.keys.iter().rev().zip(&bench.swtpm.ek_certificates) {
        assert_eq!(key.certificate, Some(fs::read(file).unwrap()));
        assert_eq!(EkKind::of(&key.public), Some(key.kind));
    }
    bench.tool("clear", &["-c", "p"]);
    assert_eq!(bench.tpm().endorsement_keys().unwrap(), before);
}

#[test]
fn without_certificates_the_keys_are_those_of_the_default_templates_and_the_id_is_the_first_ones() {
    let bench = Bench::uncertified();
    let found = bench.tpm().endorsement_keys().unwrap();
    let kinds: Vec<_> = found.keys.iter().map(|key| key.kind).collect();
    assert_eq!(kinds, EkKind::ALL);
    assert!(!found.certified() && found.chain.is_empty());
    for (key, algorithm) in found.keys.iter().zip(["ecc", "ecc384", "rsa"]) {
        // tpm2-tools make the same key, and OpenSSL the SubjectPublicKeyInfo that a certificate of it would have.
        if key.kind != EkKind::P384 {
            bench.tool("createek", &["-c", "ek.ctx", "-G", algorithm, "-u", "ek.pem", "-f", "pem"]);
            let spki = spki_by_openssl(&bench, "ek.pem");
            assert_eq!(EkKey::of_public_area(&key.public).unwrap().spki(), spki, "{algorithm}");
        }
    }
    let first = EkKey::of_public_area(&found.keys[0].public).unwrap();
    assert_eq!(found.id(), Some(sha256(&first.spki())));
    // After a clear they are made anew, and are the same.
    bench.tool("clear", &["-c", "p"]);
    assert_eq!(bench.tpm().endorsement_keys().unwrap(), found);
}

#[test]
fn the_id_of_a_certified_tpm_is_that_of_the_key_in_its_certificate() {
    let bench = Bench::start();
    let found = bench.tpm().endorsement_keys().unwrap();
    assert!(found.certified());
    for (key, file) in found.keys.iter().rev().zip(&bench.swtpm.ek_certificates) {
        let name = file.to_str().unwrap();
        let openssl = |arguments: &[&str]| Command::new("openssl").args(arguments).output().expect("openssl").stdout;
        let public = openssl(&["x509", "-inform", "der", "-in", name, "-noout", "-pubkey"]);
        fs::write(bench.swtpm.dir().join("certified.pem"), public).unwrap();
        let spki = spki_by_openssl(&bench, "certified.pem");
        assert_eq!(EkKey::of_public_area(&key.public).unwrap().spki(), spki);
    }
}

fn spki_by_openssl(bench: &Bench, pem: &str) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(["pkey", "-pubin", "-outform", "der", "-in", pem]).current_dir(bench.swtpm.dir());
    let output = command.output().expect("openssl is installed");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn credentials_by_tpm2_makecredential_open_and_those_for_another_key_do_not() {
    for bench in [Bench::start(), Bench::uncertified()] {
        credentials_open(&bench);
    }
}

fn credentials_open(bench: &Bench) {
    let mut tpm = bench.tpm();
    let secret = b"thirty-two bytes of a secret ...";
    let dir = bench.swtpm.dir();
    fs::write(dir.join("secret"), secret).unwrap();
    let name = data_encoding::HEXLOWER.encode(&tpm.ak_public().name());
    let other_name = format!("000b{}", "00".repeat(32));
    for key in tpm.endorsement_keys().unwrap().keys {
        fs::write(dir.join("ek.pub"), tpm2b(&key.public)).unwrap();
        let mut activate = |name: &str| {
            let made = ["--tcti", "none", "-u", "ek.pub", "-s", "secret", "-n", name, "-o", "credential"];
            bench.tool("makecredential", &made);
            // Magic and version, then TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
            let file = fs::read(dir.join("credential")).unwrap();
            let (id_object, encrypted) = file[8..].split_at(2 + usize::from(u16::from_be_bytes([file[8], file[9]])));
            tpm.activate_credential(key.kind, id_object, encrypted)
        };
        assert_eq!(activate(&name).unwrap().as_slice(), secret, "{:?}", key.kind);
        assert!(activate(&other_name).is_err());
        // Nothing was left behind that would fill the TPM: sessions, keys.
        for _ in 0..4 {
            assert_eq!(activate(&name).unwrap().as_slice(), secret);
        }
    }
}

#[test]
fn a_hierarchy_with_an_authorisation_value_opens_with_it_only() {
    let bench = Bench::start();
    bench.tool("changeauth", &["-c", "e", "let-me-in"]);
    let said = Tpm::open(&bench.config()).unwrap_err();
    assert!(
        matches!(said, TpmError::EndorsementHierarchy(_)) && said.to_string().contains("endorsement_auth"),
        "{said}"
    );
    let config = TpmConfig { endorsement_auth: b"let-me-in".to_vec().into(), ..bench.config() };
    let mut tpm = Tpm::open(&config).unwrap();
    tpm.quote(&[0; 32]).unwrap();
    assert_eq!(tpm.endorsement_keys().unwrap().keys.len(), 2);
}

#[test]
fn what_crashed_programs_left_in_the_tpm_does_not_stop_the_attester() {
    let bench = Bench::start();
    for n in 0..3 {
        bench.tool("createprimary", &["-C", "o", "-c", &format!("{n}.ctx")]);
    }
    // TPM2_StartAuthSession (TPM 2.0 Part 3 §11.1): a policy session with SHA-256, no salt, nothing bound.
    let start = [
        &[0x80, 0x01, 0, 0, 0, 43, 0, 0, 0x01, 0x76, 0x40, 0, 0, 0x07, 0x40, 0, 0, 0x07, 0, 16][..],
        &[5; 16],
        &[0, 0, 1, 0, 0x10, 0, 0x0B],
    ];
    fs::write(bench.swtpm.dir().join("start"), start.concat()).unwrap();
    for _ in 0..3 {
        bench.tool("send", &["-o", "started", "start"]);
        assert_eq!(fs::read(bench.swtpm.dir().join("started")).unwrap()[6..10], [0; 4], "TPM_RC_SUCCESS");
    }
    let mut tpm = bench.tpm();
    tpm.quote(&[0; 32]).unwrap();
    let full = tpm.activate_credential(EkKind::Rsa2048, &[1; 68], &[1; 256]).unwrap_err().to_string();
    assert!(!full.contains("memory") && !full.contains("handles"), "room for a policy session: {full}");
}

#[test]
fn a_log_goes_on_from_what_the_boot_left_in_the_pcr() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    tpm.extend(PCR, &[8; 32]).unwrap();
    let start = extend_sha256(&START, &[8; 32]);
    let mut log = RuntimeLog::open(&bench.state, PCR, start, &mut tpm).unwrap();
    let mut locked = log.lock(&mut tpm).unwrap();
    locked.measure(&sweep_of(&["/a"])).unwrap();
    assert_eq!((locked.problem(), locked.count()), (None, 1));
    let value = locked.value();
    assert_eq!(value, extend_sha256(&start, &entry("/a").template_digest(0)));
    drop(locked);
    assert_eq!(tpm.pcr(PCR).unwrap(), value);
}

#[test]
fn a_tpm_that_restarts_is_connected_to_again() {
    let mut bench = Bench::start();
    let mut tpm = bench.tpm();
    let before = tpm.counters().unwrap();
    bench.swtpm.power_cycle().unwrap();
    assert!(tpm.counters().unwrap() > before);
    bench.swtpm.power_off();
    assert!(matches!(tpm.quote(&[0; 32]), Err(TpmError::Absent { .. })));
}

#[test]
fn what_runs_is_in_the_log_and_the_log_leads_to_the_quote() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    let mut log = bench.log(&mut tpm);
    let sweep = Sweeper::new().unwrap().sweep().unwrap();
    let new = log.lock(&mut tpm).unwrap().measure(&sweep).unwrap();
    assert!(new > 0);
    assert_eq!(log.lock(&mut tpm).unwrap().measure(&sweep).unwrap(), 0, "once each");
    assert_eq!(log_leads_to_the_quote(&mut log, &mut tpm), new as u64);
    let this_test = fs::read(std::env::current_exe().unwrap()).unwrap();
    let digest = sha256(&this_test);
    let locked = log.lock(&mut tpm).unwrap();
    let mut found = entries(locked.bytes_from(0), PCR.index().into(), 0).map(Result::unwrap);
    assert!(found.any(|entry| entry.digest == digest && entry.kind == Kind::Executable));
}

#[test]
fn a_restarted_attester_goes_on_where_it_was() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    measure(&bench, &mut tpm, &["/a", "/b"]);
    drop(tpm);
    let mut tpm = bench.tpm();
    let mut log = bench.log(&mut tpm);
    let mut locked = log.lock(&mut tpm).unwrap();
    assert_eq!((locked.count(), locked.problem()), (2, None));
    assert_eq!(locked.measure(&sweep_of(&["/a", "/c", "/b"])).unwrap(), 1);
    drop(locked);
    assert_eq!(log_leads_to_the_quote(&mut log, &mut tpm), 3);
}

#[test]
fn segments_hold_whole_entries() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    measure(&bench, &mut tpm, &["/a", "/b", "/c"]);
    let mut log = bench.log(&mut tpm);
    let locked = log.lock(&mut tpm).unwrap();
    let one = entry("/a").encode(14, 0).len();
    assert_eq!(locked.segment(0, one - 1), (0, &[][..]));
    assert_eq!(locked.segment(1, 2 * one - 1), (1, entry("/b").encode(14, 1).as_slice()));
    assert_eq!(locked.segment(1, usize::MAX).0, 2);
    assert_eq!((locked.segment(3, 9), locked.segment(u64::MAX, 9)), ((0, &[][..]), (0, &[][..])));
    assert_eq!(locked.bytes_from(2), entry("/c").encode(14, 2));
}

#[test]
fn a_crash_between_append_and_extend_is_made_good() {
    // Of the two entries that were appended together none, or one, was extended.
    for extended in [0, 1] {
        let bench = Bench::start();
        let mut tpm = bench.tpm();
        measure(&bench, &mut tpm, &["/a"]);
        let crashed = [entry("/b"), entry("/c")];
        for (entry, sequence) in crashed.iter().zip(1..) {
            bench.append(&entry.encode(14, sequence));
        }
        for (entry, sequence) in crashed.iter().zip(1..).take(extended) {
            tpm.extend(PCR, &entry.template_digest(sequence)).unwrap();
        }
        let mut log = bench.log(&mut tpm);
        assert_eq!(log.lock(&mut tpm).unwrap().problem(), None);
        assert_eq!(log_leads_to_the_quote(&mut log, &mut tpm), 3);
    }
}

#[test]
fn a_torn_entry_is_cut() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    measure(&bench, &mut tpm, &["/a"]);
    let torn = entry("/torn").encode(14, 1);
    for length in [1, 30, torn.len() - 1] {
        bench.append(&torn[..length]);
        let mut log = bench.log(&mut tpm);
        assert_eq!(log.lock(&mut tpm).unwrap().problem(), None);
        assert_eq!(log_leads_to_the_quote(&mut log, &mut tpm), 1);
        assert_eq!(fs::read(bench.log_file()).unwrap(), entry("/a").encode(14, 0));
    }
}

#[test]
fn a_changed_log_is_kept_and_said_to_be_wrong() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    measure(&bench, &mut tpm, &["/a", "/b"]);
    let forged = [entry("/a").encode(14, 0), entry("/harmless").encode(14, 1)].concat();
    fs::write(bench.log_file(), &forged).unwrap();
    let mut log = bench.log(&mut tpm);
    let mut locked = log.lock(&mut tpm).unwrap();
    assert_eq!(locked.problem(), Some(LogProblem::Mismatch));
    assert_eq!(locked.bytes_from(0), forged);
    locked.quote(&[0; 32]).unwrap();
    assert_eq!(locked.measure(&sweep_of(&["/c"])).unwrap(), 1);
}

#[test]
fn a_pcr_extended_by_others_is_said_to_be_wrong() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    measure(&bench, &mut tpm, &["/a"]);
    tpm.extend(PCR, &[6; 32]).unwrap();
    assert_eq!(bench.log(&mut tpm).lock(&mut tpm).unwrap().problem(), Some(LogProblem::Mismatch));
}

#[test]
fn a_reboot_begins_a_new_log() {
    let mut bench = Bench::start();
    let mut tpm = bench.tpm();
    // One entry: without it the PCR is what it was before, as after a crash between append and extend.
    measure(&bench, &mut tpm, &["/a"]);
    let mut log = bench.log(&mut tpm);
    bench.swtpm.power_cycle().unwrap();
    // The running attester notices too: nothing of the old log goes out with a quote of the new boot.
    let refused = log.lock(&mut tpm).unwrap().quote(&[0; 32]);
    assert!(matches!(refused, Err(RuntimeLogError::Restarted)), "{refused:?}");
    assert_eq!(log_leads_to_the_quote(&mut log, &mut tpm), 0);
    assert_eq!(bench.log(&mut tpm).lock(&mut tpm).unwrap().problem(), None);
}

#[test]
fn tpm2_clear_does_not_end_the_log() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    measure(&bench, &mut tpm, &["/a", "/b"]);
    drop(tpm);
    bench.tool("clear", &["-c", "p"]);
    let mut tpm = bench.tpm();
    let mut log = bench.log(&mut tpm);
    assert_eq!(log.lock(&mut tpm).unwrap().problem(), None);
    assert_eq!(log_leads_to_the_quote(&mut log, &mut tpm), 2);
}

#[test]
fn a_lost_log_is_said_to_be_lost() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    measure(&bench, &mut tpm, &["/a"]);
    fs::remove_dir_all(&bench.state).unwrap();
    let mut log = bench.log(&mut tpm);
    assert_eq!(log.lock(&mut tpm).unwrap().problem(), Some(LogProblem::Start));
    drop(log);
    assert_eq!(bench.log(&mut tpm).lock(&mut tpm).unwrap().problem(), Some(LogProblem::Start), "remembered");
}

#[test]
fn a_full_disk_extends_nothing_and_names_the_file() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    let mut log = bench.log(&mut tpm);
    std::os::unix::fs::symlink("/dev/full", bench.log_file()).unwrap();
    let mut locked = log.lock(&mut tpm).unwrap();
    let refused = locked.measure(&sweep_of(&["/a"])).unwrap_err();
    assert!(
        matches!(&refused, RuntimeLogError::File { .. }) && refused.to_string().contains("runtime.log"),
        "{refused}"
    );
    assert!(matches!(locked.quote(&[0; 32]), Err(RuntimeLogError::Unfinished)), "nothing new is reported");
    drop(locked);
    assert_eq!(tpm.pcr(PCR).unwrap(), START);
}

#[test]
fn an_extend_that_fails_reports_nothing_and_is_made_good_later() {
    let mut bench = Bench::start();
    let mut tpm = bench.tpm();
    let mut log = bench.log(&mut tpm);
    let mut locked = log.lock(&mut tpm).unwrap();
    bench.swtpm.power_off();
    assert!(matches!(locked.measure(&sweep_of(&["/a"])), Err(RuntimeLogError::Tpm(_))));
    assert!(matches!(locked.quote(&[0; 32]), Err(RuntimeLogError::Unfinished)));
    drop(locked);
    bench.swtpm.power_cycle().unwrap();
    let mut locked = log.lock(&mut tpm).unwrap();
    assert_eq!(locked.measure(&sweep_of(&["/a"])).unwrap(), 1);
    drop(locked);
    assert_eq!(log_leads_to_the_quote(&mut log, &mut tpm), 1);
    assert_eq!(tpm.pcr(PCR).unwrap(), extend_sha256(&START, &entry("/a").template_digest(0)));
}

#[test]
fn two_programs_of_one_device_share_the_log() {
    let bench = Bench::start();
    let mut tpm = bench.tpm();
    let (mut one, mut other) = (bench.log(&mut tpm), bench.log(&mut tpm));
    one.lock(&mut tpm).unwrap().measure(&sweep_of(&["/a"])).unwrap();
    assert_eq!(other.lock(&mut tpm).unwrap().measure(&sweep_of(&["/a", "/b"])).unwrap(), 1);
    assert_eq!(log_leads_to_the_quote(&mut one, &mut tpm), 2);
}
