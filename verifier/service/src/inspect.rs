//! Any artefact by its content: bytes in; out comes what it is, as JSON in the shapes that the documentation promises,
//! or that it is nothing known. Decoding vouches for nothing: no signature is checked here.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use evidence::{
    Malformed, Refused, cbor,
    claims::{Claims, LogKind},
    cose::Sign1,
    envelope::Envelope,
    eventlog::{self, Event, EventLog, Problem, event_type_name},
    ima,
    limits::MAX_LOG,
    pcr::{HashAlgorithm, PcrValues, sha256},
    result::{AttestationResult, Tier},
    runtime_log,
    tpm::{self, AkPublic, Attest, Attested, PcrSelection, Public, PublicKey, without_size},
};
use reference_values::{Document, SignedDocument, Unreadable};
use serde_json::{Map, Value, json};

use crate::http::api::time;

/// First byte of a tagged COSE_Sign1 (RFC 9052 §2).
const COSE_SIGN1: u8 = 0xD2;
/// CBOR tag 501: an unsigned CoRIM.
const UNSIGNED_CORIM: [u8; 3] = [0xD9, 0x01, 0xF5];

/// Bytes that are no artefact, or a damaged one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// It begins like one, and then is not.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Reference values that cannot be read.
    #[error("reference values: {0}")]
    ReferenceValues(#[from] Unreadable),
    /// No decoder takes it; why it is no boot log either, which is what has the fewest marks of its own.
    #[error(
        "this is none of: evidence, attestation result, TCG event log, IMA list (binary form), runtime log, TPMS_ATTEST, TPM2B_PUBLIC, \
         TPMT_SIGNATURE, reference values (read as a TCG event log: {why} at byte {at})"
    )]
    Unknown {
        /// What is wrong.
        why: &'static str,
        /// Where.
        at: usize,
    },
    /// Longer than any of them may be.
    #[error("longer than {MAX_LOG} bytes, the most that any artefact may have")]
    TooLong,
}

/// One kind of artefact: whether bytes look like it, and its whole decoding.
struct Decoder {
    looks_like: fn(&[u8]) -> bool,
    decode: fn(&[u8]) -> Result<Value, Undecodable>,
}

/// The narrower signature first.
const DECODERS: [Decoder; 8] = [
    Decoder { looks_like: |bytes| bytes.first() == Some(&COSE_SIGN1), decode: cose },
    Decoder { looks_like: SignedDocument::recognises, decode: reference_values },
    Decoder { looks_like: |bytes| without_size(bytes).starts_with(&tpm::GENERATED.to_be_bytes()), decode: attest },
    Decoder { looks_like: |bytes| Public::read(bytes).is_ok(), decode: public },
    Decoder { looks_like: |bytes| tpm::read_ecdsa_signature(bytes).is_ok(), decode: signature },
    Decoder { looks_like: |bytes| runtime_log::looks_like(bytes).is_some(), decode: runtime_log },
    Decoder { looks_like: ima::looks_like, decode: ima_list },
    Decoder { looks_like: eventlog::looks_like, decode: event_log },
];

/// Decodes an artefact to its end.
///
/// # Errors
/// [`Undecodable`]: where it begins like one kind, what is wrong with it as that.
pub fn inspect(bytes: &[u8]) -> Result<Value, Undecodable> {
    if bytes.len() > MAX_LOG {
        return Err(Undecodable::TooLong);
    }
    let mut first_fault = None;
    for decoder in DECODERS.iter().filter(|decoder| (decoder.looks_like)(bytes)) {
        match (decoder.decode)(bytes) {
            Ok(artefact) => return Ok(artefact),
            Err(fault) => drop(first_fault.get_or_insert(fault)),
        }
    }
    Err(first_fault.unwrap_or_else(|| unknown(bytes)))
}

fn unknown(bytes: &[u8]) -> Undecodable {
    match EventLog::read(bytes) {
        Err(Malformed { why, at, .. }) => Undecodable::Unknown { why, at },
        Ok(_) => Undecodable::Unknown { why: "the first event has no known type or no PCR", at: 0 },
    }
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

fn problem(code: &str, detail: impl Into<String>) -> Value {
    json!({ "code": code, "detail": detail.into() })
}

/// Problems of a log, whose places are called `place`.
fn problems(place: &str, problems: &[Problem]) -> Value {
    problems
        .iter()
        .map(|problem| json!({ place: problem.index, "code": problem.code, "detail": problem.detail }))
        .collect()
}

fn banks(banks: &BTreeMap<HashAlgorithm, eventlog::Bank>) -> Value {
    let bank = |bank: &eventlog::Bank| -> Map<String, Value> {
        bank.iter().map(|(pcr, value)| (pcr.to_string(), hex(value).into())).collect()
    };
    banks.iter().map(|(algorithm, values)| (algorithm.name().to_owned(), Value::from(bank(values)))).collect()
}

/// Events listed, at most: real logs have hundreds, and each line is several times as long as its event.
const MAX_LISTED: usize = 16_384;

fn event_log(bytes: &[u8]) -> Result<Value, Undecodable> {
    let log = EventLog::read(bytes)?;
    let replay = log.inspect()?;
    let listing = log.events().take(MAX_LISTED).map_while(Result::ok).map(|event| listed(&event));
    let mut odd = problems("event", &replay.problems);
    if let (Some(more), Value::Array(odd)) = (replay.events.checked_sub(MAX_LISTED).filter(|more| *more > 0), &mut odd)
    {
        odd.push(json!({ "event": MAX_LISTED, "code": "log.more-events", "detail": format!("{more} are not listed") }));
    }
    Ok(json!({
        "kind": "tcg-event-log",
        "events": replay.events,
        "listing": listing.collect::<Vec<_>>(),
        "pcrs": banks(&replay.banks),
        "problems": odd,
    }))
}

/// One event; its content is only words where `proven` is false, and nothing is measured where it is null.
fn listed(event: &Event<'_>) -> Value {
    let digest = event.preferred_digest().filter(|_| event.extends());
    json!({
        "event": event.index,
        "pcr": event.pcr,
        "type": event_type_name(event.event_type).map_or_else(|| format!("0x{:08x}", event.event_type), str::to_owned),
        "digest": digest.map(|(algorithm, digest)| format!("{}:{}", algorithm.name(), hex(digest))),
        "content": event.content().to_string(),
        "proven": digest.map(|(algorithm, _)| event.proves_content(algorithm)),
    })
}

fn ima_list(bytes: &[u8]) -> Result<Value, Undecodable> {
    let replay = ima::replay(bytes)?;
    Ok(json!({
        "kind": "ima-log",
        "entries": replay.entries,
        "templates": replay.templates,
        "violations": replay.violations,
        "pcrs": banks(&replay.banks),
        "boot_aggregate": replay.boot_aggregate,
        "problems": problems("entry", &replay.problems),
    }))
}

fn runtime_log(bytes: &[u8]) -> Result<Value, Undecodable> {
    let (pcr, first) = runtime_log::looks_like(bytes).ok_or_else(|| unknown(bytes))?;
    let mut kinds = BTreeMap::<&str, usize>::new();
    for entry in runtime_log::entries(bytes, pcr, first) {
        *kinds.entry(entry?.kind.name()).or_default() += 1;
    }
    // The log goes on from the value that the boot log left, which it does not hold: from zero it is only comparable.
    let replayed = runtime_log::replay([0; 32], bytes, pcr, first)?;
    Ok(json!({
        "kind": "runtime-log",
        "pcr": pcr,
        "first": first,
        "entries": replayed.next_index.saturating_sub(first),
        "kinds": kinds,
        "from_zero": hex(&replayed.value),
        "problems": [],
    }))
}

fn bank_name(id: u16) -> String {
    HashAlgorithm::from_tpm(id).map_or_else(|| format!("0x{id:04x}"), |known| known.name().to_owned())
}

fn attest(bytes: &[u8]) -> Result<Value, Undecodable> {
    let attest = Attest::read(bytes)?;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("kind", "tpms-attest".into());
    put("qualified_signer", hex(attest.qualified_signer).into());
    put("extra_data", hex(attest.extra_data).into());
    put("reset_count", attest.counters.reset.into());
    put("restart_count", attest.counters.restart.into());
    put("clock", attest.counters.clock.into());
    put("safe", attest.safe.into());
    put("firmware_version", format!("{:016x}", attest.firmware_version).into());
    put("problems", json!([]));
    match &attest.attested {
        Attested::Quote { selection, pcr_digest } => {
            put("type", "quote".into());
            put("selection", selected(selection));
            put("pcr_digest", hex(pcr_digest).into());
        }
        Attested::Other { structure_tag, bytes } => {
            put("type", format!("0x{structure_tag:04x}").into());
            put("attested", hex(bytes).into());
        }
    }
    Ok(fields.into())
}

fn selected(selection: &[PcrSelection]) -> Value {
    let pcrs = |bits: u32| (0..32).filter(|pcr| bits >> pcr & 1 == 1).collect::<Vec<u32>>();
    selection.iter().map(|bank| json!({ "bank": bank_name(bank.hash), "pcrs": pcrs(bank.pcrs) })).collect()
}

fn public(bytes: &[u8]) -> Result<Value, Undecodable> {
    let public = Public::read(bytes)?;
    let area = without_size(bytes);
    let name = HashAlgorithm::from_tpm(public.name_algorithm).and_then(|algorithm| algorithm.hash(area));
    let name = name.map(|digest| format!("{:04x}{}", public.name_algorithm, hex(digest.as_ref())));
    let key = match &public.key {
        PublicKey::Rsa { bits, exponent, modulus } => json!({
            "type": "rsa",
            "bits": bits,
            "exponent": if *exponent == 0 { 65_537 } else { *exponent },
            "modulus": hex(modulus),
        }),
        PublicKey::Ecc { curve, x, y } => {
            json!({ "type": "ecc", "curve": curve_name(*curve), "x": hex(x), "y": hex(y) })
        }
    };
    let ak = AkPublic::read(bytes).ok();
    Ok(json!({
        "kind": if area.len() == bytes.len() { "tpmt-public" } else { "tpm2b-public" },
        "key": key,
        "name_algorithm": bank_name(public.name_algorithm),
        "name": name,
        "attributes": format!("0x{:08x}", public.attributes),
        "auth_policy": hex(public.auth_policy),
        "attestation_key": ak.is_some(),
        "qualified_name": ak.map(|ak| hex(&ak.qualified_name())),
        "problems": [],
    }))
}

/// TPM_ECC_CURVE (TPM 2.0 Part 2 §6.4).
fn curve_name(curve: u16) -> String {
    match curve {
        3 => "P-256".to_owned(),
        4 => "P-384".to_owned(),
        5 => "P-521".to_owned(),
        _ => format!("0x{curve:04x}"),
    }
}

fn signature(bytes: &[u8]) -> Result<Value, Undecodable> {
    let both = tpm::read_ecdsa_signature(bytes)?;
    let (r, s) = both.split_at(32);
    Ok(json!({
        "kind": "tpmt-signature",
        "scheme": "ecdsa",
        "hash": "sha256",
        "r": hex(r),
        "s": hex(s),
        "problems": [],
    }))
}

/// A COSE_Sign1: reference values by the tag of their payload, else evidence, else a result.
fn cose(bytes: &[u8]) -> Result<Value, Undecodable> {
    let payload = Sign1::decode("COSE_Sign1", bytes).map(|sign1| sign1.payload);
    if payload.as_ref().is_ok_and(|payload| payload.starts_with(&UNSIGNED_CORIM)) {
        return reference_values(bytes);
    }
    let as_evidence = match Envelope::decode(bytes) {
        Ok(envelope) => return evidence_message(bytes, envelope.unverified_claims()),
        Err(fault) => fault,
    };
    let result = payload.and_then(|payload| cbor::decode::<AttestationResult>("attestation result", payload));
    Ok(attestation_result(&result.map_err(|_| as_evidence)?))
}

fn evidence_message(bytes: &[u8], claims: &Claims) -> Result<Value, Undecodable> {
    let sign1 = Sign1::decode("evidence", bytes)?;
    let mut odd = Vec::new();
    let quote = attest(&claims.quote.attest).unwrap_or_else(|fault| {
        odd.push(problem("quote.not-a-quote", fault.to_string()));
        Value::Null
    });
    if let Ok(attest) = Attest::read(&claims.quote.attest) {
        let committed = (attest.extra_data != claims.committed.extra_data()).then_some(Refused::ExtraData);
        let faults = attest.profile_pcr_digest().err().into_iter().chain(committed);
        odd.extend(faults.map(|refused| problem(refused.code(), refused.to_string())));
    }
    let mut logs = Vec::new();
    for (claim, attached) in claims.logs.iter().zip(&sign1.attachments) {
        if sha256(attached) != claim.digest {
            odd.push(problem(
                "evidence.attachment",
                format!("the attached {} is not the announced one", log_name(claim.kind)),
            ));
        }
        logs.push(json!({
            "kind": log_name(claim.kind),
            "first": claim.first,
            "count": claim.count,
            "sha256": hex(&claim.digest),
            "bytes": attached.len(),
            "content": attachment(claim.kind, attached),
        }));
    }
    let committed = &claims.committed;
    Ok(json!({
        "kind": "evidence",
        "bytes": bytes.len(),
        "device": committed.device.to_string(),
        "profile": committed.profile,
        "nonces": committed.nonces.as_slice().iter().map(|nonce| hex(nonce)).collect::<Vec<_>>(),
        "why": committed.attester.why.name(),
        "sources": committed.attester.sources,
        "attester": committed.attester.version,
        "quote": quote,
        "quote_signature": hex(&claims.quote.signature),
        "logs": logs,
        "signature": hex(sign1.signature),
        "problems": odd,
    }))
}

const fn log_name(kind: LogKind) -> &'static str {
    match kind {
        LogKind::Boot => "boot log",
        LogKind::Ima => "ima list",
        LogKind::Runtime => "runtime log",
        LogKind::PcrValues => "pcr values",
    }
}

/// What is attached, where it stands for itself: segments of a list replay only with what came before them.
fn attachment(kind: LogKind, bytes: &[u8]) -> Value {
    match kind {
        LogKind::Boot => event_log(bytes).unwrap_or(Value::Null),
        LogKind::Runtime => runtime_log(bytes).unwrap_or(Value::Null),
        LogKind::Ima => Value::Null,
        LogKind::PcrValues => PcrValues::from_bytes(bytes).map_or(Value::Null, |values| {
            let values = values.all().iter().enumerate();
            let bank: Map<String, Value> = values.map(|(pcr, value)| (pcr.to_string(), hex(value).into())).collect();
            json!({ "sha256": bank })
        }),
    }
}

fn attestation_result(result: &AttestationResult) -> Value {
    let claims: Map<String, Value> = result
        .vector
        .iter()
        .map(|(claim, value)| (claim.name().to_owned(), json!({ "value": value, "tier": Tier::of(value).name() })))
        .collect();
    let causes: Vec<Value> =
        result.causes.iter().map(|cause| json!({ "code": cause.code, "detail": cause.detail })).collect();
    json!({
        "kind": "attestation-result",
        "device": result.device.to_string(),
        "verdict": appraisal::Verdict::from_tier(result.status).name(),
        "claims": claims,
        "causes": causes,
        "tolerated": result.tolerated,
        "issued": time(result.issued),
        "expires": time(result.expires),
        "nonce": hex(&result.nonce),
        "evidence": hex(&result.evidence),
        "policy": result.policy,
        "product": result.release.as_ref().map(|(product, _)| product),
        "release": result.release.as_ref().map(|(_, release)| release),
        "vouched": result.vouched.iter().map(|(role, signer)| json!({ "role": role, "signer": signer })).collect::<Vec<_>>(),
        "verifier": result.developer,
        "build": result.build,
        "problems": [],
    })
}

fn reference_values(bytes: &[u8]) -> Result<Value, Undecodable> {
    let signed = SignedDocument::decode(bytes)?;
    let signatures: Vec<Value> = signed
        .signatures()
        .iter()
        .map(|signature| json!({ "role": signature.stated_role().to_string(), "key": signature.key().to_string() }))
        .collect();
    let odd = if signatures.is_empty() {
        json!([problem("signature.unsigned", "nobody has signed this: no verifier takes it")])
    } else {
        json!([])
    };
    let document = signed.document();
    let mut shown = document_facts(document);
    shown.extend([
        ("kind".to_owned(), "reference-values".into()),
        ("document".to_owned(), document.kind().name().into()),
        ("product".to_owned(), document.product().into()),
        ("sequence".to_owned(), document.sequence().into()),
        ("signatures".to_owned(), signatures.into()),
        ("problems".to_owned(), odd),
    ]);
    Ok(shown.into())
}

/// What each kind has of its own.
fn document_facts(document: &Document) -> Map<String, Value> {
    let boot = |boot: &reference_values::BootPcrs| -> Map<String, Value> {
        boot.pcrs().iter().map(|(pcr, value)| (pcr.to_string(), hex(value).into())).collect()
    };
    let facts = match document {
        Document::Release(release) => json!({
            "release": release.name(),
            "valid_from": release.valid_from().map(time),
            "retire_at": release.retire_at().map(time),
            "executables": release.executables().len(),
            "boots": release.boots().iter().map(|pcrs| json!({ "sha256": boot(pcrs) })).collect::<Vec<_>>(),
        }),
        Document::Endorsements(list) => json!({
            "name": list.name(),
            "expires": list.expires().map(time),
            "entries": list.entries().len(),
        }),
        Document::Notice(notice) => json!({
            "name": notice.name(),
            "expires": notice.expires().map(time),
            "minimum": notice.minimum().map(|minimum| json!({ "release": minimum.release, "sequence": minimum.sequence })),
            "revoked": notice.revoked().iter().map(|revoked| revoked.release.as_str()).collect::<Vec<_>>(),
            "known_bad": notice.known_bad().len(),
        }),
    };
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}
