//! What the fuzz targets do with hostile bytes: decode, and hold what decodes against what must then be true. A panic is
//! a finding. The same functions run over the committed corpus as plain tests (`evidence/tests/corpus.rs`).

use evidence::{
    ak_certificate::AkCertificate,
    cbor,
    challenge::{Challenge, Hello, Refusal},
    claims::Claims,
    cose::{self, Sign1},
    enrolment::{Down, Up},
    envelope::Envelope,
    epoch::Epoch,
    eventlog::{self, EventLog, PCR_COUNT},
    ima,
    limits::MAX_PROBLEMS,
    pcr::{HashAlgorithm, sha256},
    runtime_log,
    tpm::{self, AkPublic, Attest, Public},
    verifier_keys::VerifierKeys,
};

/// A fuzz target by name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets; a corpus folder has the target's name.
pub const TARGETS: [Target; 7] = [
    ("evidence", evidence),
    ("enrolment", enrolment),
    ("tpm", tpm),
    ("event_log", event_log),
    ("ima_list", ima_list),
    ("runtime_log", runtime_log),
    ("cbor", cbor),
];

/// Evidence messages: what decodes has exactly one encoding.
pub fn evidence(data: &[u8]) {
    let _ = Envelope::decode(data);
    if let Ok(sign1) = Sign1::decode("evidence", data) {
        let attachments: Vec<_> = sign1.attachments.iter().map(|bytes| bytes.to_vec()).collect();
        assert_eq!(cose::encode(sign1.protected, &attachments, sign1.payload, sign1.signature), data);
        claims(sign1.payload);
    }
    claims(data);
}

fn claims(data: &[u8]) {
    if let Ok(claims) = Claims::decode(data) {
        assert_eq!(claims.encode(), data);
        let _ = claims.committed.extra_data();
        let _ = Attest::read(&claims.quote.attest);
    }
}

/// Enrolment messages: what decodes has exactly one encoding.
pub fn enrolment(data: &[u8]) {
    if let Ok(up) = Up::decode(data) {
        assert_eq!(up.encode(), data);
    }
}

/// TPM structures.
pub fn tpm(data: &[u8]) {
    if let Ok(attest) = Attest::read(data) {
        let _ = attest.profile_pcr_digest();
    }
    let _ = Public::read(data);
    let _ = tpm::read_ecdsa_signature(data);
    if let Ok(ak) = AkPublic::read(tpm::without_size(data)) {
        assert_eq!(ak.area(), tpm::without_size(data));
    }
}

/// Boot logs: every PCR and value has its place, one bank replays as it does among all, and the list of problems ends.
pub fn event_log(data: &[u8]) {
    let _ = eventlog::looks_like(data);
    let Ok(log) = EventLog::read(data) else { return };
    let Ok(replay) = log.inspect() else {
        assert!(log.events().any(|event| event.is_err()));
        return;
    };
    assert_eq!(log.events().count(), replay.events);
    assert!(replay.problems.len() <= (MAX_PROBLEMS + 1) * 2);
    for (algorithm, bank) in &replay.banks {
        assert!(bank.iter().all(|(pcr, value)| *pcr < PCR_COUNT && value.len() == algorithm.len()));
    }
    let one = log.replay(Some(HashAlgorithm::Sha256)).expect("it was replayed before");
    let of_all = replay.banks.get(&HashAlgorithm::Sha256);
    assert_eq!(
        one.banks.get(&HashAlgorithm::Sha256).filter(|bank| !bank.is_empty()),
        of_all.filter(|bank| !bank.is_empty())
    );
}

/// IMA lists: the whole replay and the search for a prefix agree.
pub fn ima_list(data: &[u8]) {
    let _ = ima::looks_like(data);
    let Ok(replay) = ima::replay(data) else {
        let _ = ima::shortest_prefix(data, ima::DEFAULT_PCR, &[0; 32], &[1; 32]);
        return;
    };
    assert_eq!(ima::entries(data).count(), replay.entries);
    assert_eq!(replay.templates.values().sum::<usize>(), replay.entries);
    let value = replay.banks.get(&HashAlgorithm::Sha256).and_then(|bank| bank.get(&ima::DEFAULT_PCR));
    let target: [u8; 32] = value.map_or([0; 32], |value| value.as_slice().try_into().expect("32 bytes"));
    let prefix = ima::shortest_prefix(data, ima::DEFAULT_PCR, &[0; 32], &target).expect("it was replayed before");
    assert!(prefix.reached && prefix.value == target && prefix.bytes <= data.len());
}

/// Runtime logs: what reads is what the writer writes. A fuzzer finds no hash by trying, so its bytes are also taken for
/// the data of an entry whose template digest holds.
pub fn runtime_log(data: &[u8]) {
    runtime_entries(data);
    let part = |bytes: &[u8]| [&u32::try_from(bytes.len()).expect("inputs are short").to_le_bytes(), bytes].concat();
    let (pcr, name) = (runtime_log::DEFAULT_PCR.to_le_bytes(), part(runtime_log::TEMPLATE.as_bytes()));
    runtime_entries(&[&pcr[..], &sha256(data), &name, &part(data)].concat());
}

fn runtime_entries(data: &[u8]) {
    let (pcr, first) = runtime_log::looks_like(data).unwrap_or((runtime_log::DEFAULT_PCR, 0));
    let replayed = runtime_log::replay([0; 32], data, pcr, first);
    let entries: Result<Vec<_>, _> = runtime_log::entries(data, pcr, first).collect();
    assert_eq!(replayed.is_ok(), entries.is_ok());
    if let Ok(entries) = entries {
        let written: Vec<u8> =
            entries.iter().zip(first..).flat_map(|(entry, sequence)| entry.encode(pcr, sequence)).collect();
        assert_eq!(written, data);
    }
}

/// Deterministic CBOR: what passes the scan and decodes as one of the messages has exactly one encoding.
pub fn cbor(data: &[u8]) {
    let scanned = cbor::check_deterministic("fuzz input", data).is_ok();
    one_encoding::<Challenge>(data, scanned);
    one_encoding::<Hello>(data, scanned);
    one_encoding::<Refusal>(data, scanned);
    one_encoding::<Down>(data, scanned);
    one_encoding::<Epoch>(data, scanned);
    one_encoding::<AkCertificate>(data, scanned);
    one_encoding::<VerifierKeys>(data, scanned);
}

fn one_encoding<T: serde::Serialize + serde::de::DeserializeOwned>(data: &[u8], scanned: bool) {
    if let Ok(value) = cbor::decode::<T>("fuzz input", data) {
        assert!(scanned);
        assert_eq!(cbor::encode(&value), data);
    }
}
