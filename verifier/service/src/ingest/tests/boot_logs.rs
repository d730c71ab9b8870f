//! The log of a device's boot, kept to be held against releases that come and go.

use evidence::{eventlog::EventLog, pcr::HashAlgorithm};
use reference_values::{
    BootRules, ReferenceIndex, Release, Required, Role, SignedDocument, SigningKey, Trust, TrustedSigner,
    boot_rules::{CommandLine, Given},
};

use super::*;

const PRODUCT: &str = "acme/router";
const GOOD: &str = "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_template=ima-ng ima_hash=sha256";
const CHANGED: &str = "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_hash=sha256 ima_template=ima-ng init_on_alloc=0";

fn log(name: &str) -> Vec<u8> {
    let vectors = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/boot");
    std::fs::read(vectors.join(name).join("eventlog.bin")).unwrap()
}

/// A device whose boot left this log.
fn booted(log: &[u8]) -> SoftwareDevice {
    let mut device = SoftwareDevice::new();
    let replay = EventLog::read(log).unwrap().replay(Some(HashAlgorithm::Sha256)).unwrap();
    for (pcr, value) in (0..).zip(&mut device.pcrs) {
        *value = replay.sha256(pcr).unwrap_or_default();
    }
    device.boot_log = Some(log.to_vec());
    device.run("/bin/a", [1; 32]);
    device
}

/// One release, by the rules of one boot.
fn release(name: &str, log: &[u8], command_line: &str) -> (SignedDocument, Trust) {
    let given = Given { command_lines: vec![CommandLine::exact(command_line).unwrap()], kernel: None, attester: None };
    let (rules, _) = BootRules::from_logs(&[EventLog::read(log).unwrap()], given).unwrap();
    let executable = reference_values::Executable { digest: [1; 32], path: "/bin/a".to_owned() };
    let sequence = name.parse().unwrap();
    let release = Release::new(PRODUCT, name, sequence, vec![executable], vec![]).unwrap();
    let release = release.with_boot_rules(vec![rules]).unwrap();
    let random = SystemRandom::new();
    let key = SigningKey::from_pem(&SigningKey::generate(&random).unwrap()).unwrap();
    let mut trust = Trust::default();
    let signer = TrustedSigner {
        name: name.to_owned(),
        role: Role::Manufacturer,
        key: key.public().clone(),
        products: vec!["*".to_owned()],
        not_after: None,
    };
    trust.add(signer).unwrap();
    (SignedDocument::unsigned(release).sign(&key, Role::Manufacturer, &random).unwrap(), trust)
}

impl Bench {
    /// The service reads its releases again.
    fn in_force(&mut self, releases: &[(SignedDocument, Trust)]) {
        let verified = releases.iter().map(|(signed, trust)| signed.clone().verify(trust, NOW).unwrap());
        let references = Arc::new(ReferenceIndex::build(verified.collect(), &Required::default(), NOW).unwrap().index);
        let rules = Rules { references, policy: appraisal::Policy::default(), roots: Arc::default() };
        let mut verifier = Verifier::in_folder(self.dir.path(), self.read);
        verifier.rules = watch::Sender::new(Arc::new(rules)).subscribe();
        self.verifier = Arc::new(verifier);
    }

    fn enrol_as_product(&self, device: &SoftwareDevice) {
        self.enrol(device);
        self.store.approve(device.keys.device, Some(PRODUCT), "test", self.now()).unwrap();
    }

    async fn judged(&self, device: &mut SoftwareDevice, attach: Attach) -> AttestationResult {
        let message = device.attest(&[self.ask(device)], attach);
        self.result(&self.send(device, &message).await)
    }

    fn holds(&self, device: &SoftwareDevice, log: &[u8]) -> bool {
        self.store.boot_log(device.keys.device, &sha256(log)).unwrap().is_some()
    }
}

fn codes(result: &AttestationResult) -> Vec<&str> {
    result.causes.iter().map(|cause| cause.code.as_str()).collect()
}

#[tokio::test]
async fn a_release_that_comes_later_is_held_against_the_log_that_was_sent_before() {
    let mut bench = bench!();
    let (good, changed) = (log("qemu-good1"), log("qemu-cmdline"));
    let first = release("1", &good, GOOD);
    bench.in_force(std::slice::from_ref(&first));
    let mut device = booted(&changed);
    bench.enrol_as_product(&device);
    let result = bench.judged(&mut device, Attach::LogsFrom(0)).await;
    assert!(codes(&result).contains(&"boot.command-line"), "{:?}", result.causes);
    assert!(result.acknowledged.boot_log);
    assert!(bench.holds(&device, &changed));
    // Nothing new: as before, and the log is not read.
    let result = bench.judged(&mut device, Attach::Nothing).await;
    assert!(codes(&result).contains(&"boot.command-line"));

    bench.in_force(&[first, release("2", &changed, CHANGED)]);
    let result = bench.judged(&mut device, Attach::Nothing).await;
    let of_boot: Vec<_> = codes(&result).into_iter().filter(|code| code.starts_with("boot.")).collect();
    assert_eq!(of_boot, ["boot.unprotected"], "{:?}", result.causes);
    assert!(result.acknowledged.boot_log && !codes(&result).contains(&"log.incomplete"), "{:?}", result.causes);
    assert_eq!(result.release.as_ref().map(|(_, release)| release.as_str()), Some("2"));
    let shown = bench.store.device(device.keys.device, bench.now()).unwrap().unwrap();
    assert_eq!(shown.boot.unwrap().secure_boot, Some(false));
}

#[tokio::test]
async fn a_log_that_was_lost_is_asked_for_and_kept_again() {
    let mut bench = bench!();
    let good = log("qemu-good1");
    let mut device = booted(&good);
    let first = release("1", &good, GOOD);
    bench.in_force(std::slice::from_ref(&first));
    bench.enrol_as_product(&device);
    bench.judged(&mut device, Attach::LogsFrom(0)).await;
    let path = bench.store.path().to_owned();
    let damage = |sql| assert_eq!(rusqlite::Connection::open(&path).unwrap().execute(sql, []), Ok(1), "{sql}");
    let mut releases = vec![first];
    for (name, lost) in [("2", "DELETE FROM boot_log"), ("3", "UPDATE boot_log SET bytes = x'00'")] {
        damage(lost);
        assert!(!bench.holds(&device, &good));
        releases.push(release(name, &good, GOOD));
        bench.in_force(&releases);
        let result = bench.judged(&mut device, Attach::Nothing).await;
        assert!(!result.acknowledged.boot_log, "{lost}");
        let result = bench.judged(&mut device, Attach::LogsFrom(1)).await;
        assert!(result.acknowledged.boot_log && codes(&result).contains(&"boot.unprotected"), "{:?}", result.causes);
        assert_eq!(result.release.as_ref().map(|(_, release)| release.as_str()), Some(name));
        assert!(bench.holds(&device, &good));
    }
}
