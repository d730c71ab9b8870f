//! A host that owns its software but not its TPM: what it cannot get signed.

use attester::tpm::{Tpm, TpmConfig, TpmError};
use devices::swtpm::Swtpm;
use evidence::{
    Refused,
    claims::{AttesterClaim, Claims, Committed, DeviceId, Nonces, PROFILE, QuoteClaim, Why},
    envelope::{DeviceKeys, Envelope, Unsigned},
    tpm::Attest,
};

#[test]
fn a_tpm_signs_claims_around_a_fabricated_quote_but_never_the_quote() {
    let swtpm = Swtpm::start();
    let config = TpmConfig { tcti: swtpm.tcti.clone(), endorsement_auth: Default::default(), ak_counter: 0 };
    let mut tpm = Tpm::open(&config).unwrap();
    let keys = DeviceKeys { device: DeviceId([7; 32]), ak: *tpm.ak_public() };
    let committed = Committed {
        nonces: Nonces::new(vec![[1; 32]]).unwrap(),
        device: keys.device,
        profile: PROFILE.into(),
        attester: AttesterClaim { why: Why::Request, sources: vec![], version: "0".into() },
    };
    let honest = tpm.quote(&committed.extra_data()).unwrap();
    let message = |tpm: &mut Tpm, attest: &[u8]| {
        let quote = QuoteClaim { attest: attest.to_vec(), signature: honest.signature };
        let claims = Claims { committed: committed.clone(), quote, logs: vec![] };
        let unsigned = Unsigned::new(&keys.ak, &claims, vec![]).unwrap();
        let signature =
            tpm.sign(unsigned.to_be_signed()).expect("the key signs what does not begin as a TPM's structure");
        unsigned.sign(&signature).message
    };
    let good = message(&mut tpm, &honest.attest);
    assert!(Envelope::decode(&good).unwrap().verify(&keys).is_ok());

    // Other PCRs in an otherwise perfect structure.
    let mut fabricated = honest.attest.clone();
    *fabricated.last_mut().unwrap() ^= 1;
    assert!(Attest::read(&fabricated).is_ok());
    assert!(
        matches!(tpm.sign(&fabricated), Err(TpmError::Command { .. })),
        "the TPM gives no ticket for its own magic"
    );
    let lie = message(&mut tpm, &fabricated);
    assert_eq!(Envelope::decode(&lie).unwrap().verify(&keys).unwrap_err(), Refused::QuoteSignature);
}
