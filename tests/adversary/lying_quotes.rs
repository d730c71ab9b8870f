//! Messages that are signed by some key, and still must not be believed.

use devices::{
    judge::{Judge, NotJudged},
    software::{Attach, SoftwareDevice},
};
use evidence::{Refused, claims::Claims, envelope::Envelope};

use crate::honest;

fn refusal(judge: &Judge, message: &[u8]) -> Refused {
    match judge.appraise(message) {
        Err(NotJudged::Refused(refused)) => refused,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn evidence_of_another_device_is_refused() {
    let (_, mut judge) = honest();
    let mut other = SoftwareDevice::new();
    let message = other.attest(&[judge.challenge()], Attach::LogsFrom(0));
    assert_eq!(refusal(&judge, &message), Refused::OtherDevice);
}

#[test]
fn evidence_that_takes_this_device_s_name_with_another_key_is_refused() {
    let (device, mut judge) = honest();
    let mut other = SoftwareDevice::new();
    other.keys.device = device.keys.device;
    let message = other.attest(&[judge.challenge()], Attach::LogsFrom(0));
    assert_eq!(refusal(&judge, &message), Refused::OtherKey);
}

#[test]
fn evidence_that_names_this_device_s_key_but_is_signed_by_another_is_refused() {
    let (device, mut judge) = honest();
    let mut other = SoftwareDevice::new();
    other.keys = device.keys;
    let message = other.attest(&[judge.challenge()], Attach::LogsFrom(0));
    assert_eq!(refusal(&judge, &message), Refused::EnvelopeSignature);
}

#[test]
fn a_quote_over_fewer_or_more_pcrs_is_refused() {
    for selection in [0x7FFF, 0xFFFE, 0x4000, 0, 0x1_FFFF] {
        let (mut device, mut judge) = honest();
        device.quoted_pcrs = selection;
        let message = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
        assert_eq!(refusal(&judge, &message), Refused::PcrSelection, "{selection:#x}");
    }
}

#[test]
fn a_quote_by_a_key_that_hangs_elsewhere_in_the_tpm_is_refused() {
    let (mut device, mut judge) = honest();
    device.qualified_signer = device.keys.ak.name();
    let message = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    assert_eq!(refusal(&judge, &message), Refused::QualifiedSigner);
}

#[test]
fn evidence_of_another_profile_is_refused() {
    let (mut device, mut judge) = honest();
    let mut committed = device.committed(&[judge.challenge()]);
    committed.profile = "tag:countersign.example,2026:tpm#0".into();
    let quote = device.quote(&committed.extra_data());
    let message = device.seal(&Claims { committed, quote, logs: vec![] }, vec![]);
    assert_eq!(refusal(&judge, &message), Refused::Profile);
}

#[test]
fn a_device_writes_no_escape_sequences_to_an_operator_s_terminal() {
    let (mut device, mut judge) = honest();
    let mut committed = device.committed(&[judge.challenge()]);
    committed.attester.version = "\u{1b}[2Jaffirmed".into();
    let quote = device.quote(&committed.extra_data());
    let message = device.seal(&Claims { committed, quote, logs: vec![] }, vec![]);
    assert!(matches!(judge.appraise(&message), Err(NotJudged::Malformed(_))));
}

#[test]
fn a_quote_of_another_challenge_under_fresh_claims_is_refused() {
    let (mut device, mut judge) = honest();
    let (old, new) = (judge.challenge(), judge.challenge());
    let old = device.committed(&[old]);
    let quote = device.quote(&old.extra_data());
    let message = device.seal(&Claims { committed: device.committed(&[new]), quote, logs: vec![] }, vec![]);
    assert_eq!(refusal(&judge, &message), Refused::ExtraData);
}

#[test]
fn a_fabricated_quote_inside_claims_that_the_ak_signed_is_refused() {
    // The AK signs any bytes without the TPM's magic, so a claims set that holds an invented TPMS_ATTEST gets a good
    // envelope signature. The quote's own signature cannot be had: the TPM refuses to sign what begins with the magic.
    let (mut device, mut judge) = honest();
    let committed = device.committed(&[judge.challenge()]);
    let mut quote = device.quote(&committed.extra_data());
    let clean = device.pcrs;
    device.pcrs[14] = clean[0];
    quote.attest = device.quote(&committed.extra_data()).attest;
    let message = device.seal(&Claims { committed, quote, logs: vec![] }, vec![]);
    assert_eq!(refusal(&judge, &message), Refused::QuoteSignature);
}

#[test]
fn claims_changed_under_a_valid_quote_are_refused() {
    let (mut device, mut judge) = honest();
    let old = judge.challenge();
    let mut committed = device.committed(&[old]);
    let quote = device.quote(&committed.extra_data());
    committed.nonces = evidence::claims::Nonces::new(vec![judge.challenge()]).unwrap();
    let message = device.seal(&Claims { committed, quote, logs: vec![] }, vec![]);
    assert_eq!(refusal(&judge, &message), Refused::ExtraData);
}

#[test]
fn an_attachment_that_was_not_signed_for_is_refused() {
    let (mut device, mut judge) = honest();
    let message = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    let sign1 = evidence::cose::Sign1::decode("evidence", &message).unwrap();
    let mut attachments: Vec<Vec<u8>> = sign1.attachments.iter().map(|bytes| bytes.to_vec()).collect();
    *attachments[1].last_mut().unwrap() ^= 1;
    let changed = evidence::cose::encode(sign1.protected, &attachments, sign1.payload, sign1.signature);
    assert_eq!(refusal(&judge, &changed), Refused::Attachment);
}

#[test]
fn no_bit_of_a_message_can_change_without_its_refusal() {
    let (mut device, mut judge) = honest();
    let message = device.attest(&[judge.challenge()], Attach::Nothing);
    assert!(judge.appraise(&message).is_ok());
    for bit in 0..message.len() * 8 {
        let mut changed = message.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(judge.appraise(&changed).is_err(), "bit {bit}");
    }
}

#[test]
fn a_message_cut_anywhere_or_with_bytes_behind_it_is_malformed() {
    let (mut device, mut judge) = honest();
    let message = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    for end in 0..message.len() {
        assert!(Envelope::decode(&message[..end]).is_err(), "cut at {end}");
    }
    assert!(Envelope::decode(&[message.as_slice(), &[0]].concat()).is_err());
}
