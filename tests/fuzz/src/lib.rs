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
    eventlog::{self, Content, Event, EventLog, PCR_COUNT, Proof},
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

/// Boot logs: every PCR and value has its place, one bank replays as it does among all, and the list of problems ends;
/// every event says something that can be printed. A fuzzer writes a whole log too seldom, so its bytes are also taken
/// for one event's PCR, type and data.
pub fn event_log(data: &[u8]) {
    whole_event_log(data);
    if let Some(([pcr, event_type, hashed], data)) = data.split_first_chunk() {
        let event_type = u32::from(event_type & 0x7F) | if event_type & 0x80 == 0 { 0 } else { 0x8000_0000 };
        // EV_EFI_VARIABLE_AUTHORITY and SPDM's events stand apart from the others.
        let event_type = if event_type >= 0x8000_0060 { event_type + 0x80 } else { event_type };
        whole_event_log(&log_of_one_event(u32::from(pcr % 16), event_type, data, hashed & 1 == 1));
    }
}

/// A crypto-agile log; the SHA-256 digest of its event is, or is not, the hash of the data.
fn log_of_one_event(pcr: u32, event_type: u32, data: &[u8], hashed: bool) -> Vec<u8> {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).expect("inputs are short").to_le_bytes();
    let bank = [&0xB_u16.to_le_bytes()[..], &32_u16.to_le_bytes(), &[0]].concat();
    let spec_id = [&b"Spec ID Event03\0"[..], &[0, 0, 0, 0, 0, 2, 0, 2], &1_u32.to_le_bytes(), &bank].concat();
    let first = [&[0; 4][..], &3_u32.to_le_bytes(), &[0; 20], &size(&spec_id), &spec_id].concat();
    let digest = if hashed { sha256(data) } else { [7; 32] };
    let head = [pcr, event_type, 1].map(u32::to_le_bytes);
    [&first[..], head.as_flattened(), &0xB_u16.to_le_bytes(), &digest, &size(data), data].concat()
}

/// What an event says is one bounded line, its proof rests on a digest, and what it hands out agrees with itself.
fn event(event: &Event<'_>) {
    let content = event.content();
    let text = content.to_string();
    assert!(!text.contains(char::is_control) && text.len() < 64 * 1024);
    for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512] {
        let proof = event.proof(algorithm);
        assert!(proof == Proof::Nothing || (event.extends() && event.digest(algorithm).is_some()));
        assert_eq!(event.proves_content(algorithm), proof != Proof::Nothing);
    }
    if let Some(line) = event.command_line() {
        assert!(line.text().is_none_or(|text| line.is(&text)));
    }
    match content {
        Content::Variable(variable) => {
            let entries: Vec<_> = eventlog::signatures(variable.data).collect();
            assert!(entries.len() <= variable.data.len() + 1);
            assert!(entries.iter().rev().skip(1).all(Result::is_ok));
            assert!(variable.name().len() <= variable.name_utf16.len() * 8);
        }
        Content::Image(image) => assert!(image.path().to_string().len() <= image.path().bytes().len() * 16 + 16),
        Content::Gpt(gpt) => assert!(gpt.partitions().count() <= event.data.len() / 128),
        Content::Tables(tables) => assert!(tables.vendors().count() <= event.data.len() / 20),
        _ => {}
    }
}

fn whole_event_log(data: &[u8]) {
    let _ = eventlog::looks_like(data);
    let Ok(log) = EventLog::read(data) else { return };
    log.events().map_while(Result::ok).for_each(|one| event(&one));
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
