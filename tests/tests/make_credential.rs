//! Credentials made in software open in a TPM: in the right one, for the right key, and nowhere else.

use std::{fs, path::PathBuf, process::Command};

use devices::swtpm::Swtpm;
use evidence::tpm::{AkPublic, EkKey, Public, PublicKey, tpm2b};
use jiff::Timestamp;
use verifier::identity::{
    Credential, DeviceIdentity, EkChain, EkRoots, RootClass, VerifiedEk, check_template, make_credential,
};

const SECRET: [u8; 32] = *b"a secret for one enrolment only!";
/// Of the RSA-2048 EK and the P-384 EK, as `swtpm_setup` leaves them.
const EK_HANDLES: [&str; 2] = ["0x81010001", "0x81010016"];

/// A TPM, and the tpm2-tools on it.
struct Tools {
    tpm: Swtpm,
}

impl Tools {
    /// With an attestation key of the profile in `ak.ctx`.
    fn start() -> (Self, AkPublic) {
        let tools = Self { tpm: Swtpm::start() };
        let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";
        let template = ["-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-g", "sha256", "-a", attributes];
        assert!(tools.run("createprimary", &[&template[..], &["-c", "ak.ctx"]].concat()));
        let ak = AkPublic::read(&tools.public("ak.ctx")).expect("the profile's template");
        (tools, ak)
    }

    /// Without a resource manager what a tool loaded stays: each ends with a flush.
    fn run(&self, tool: &str, arguments: &[&str]) -> bool {
        let run = |tool: &str, arguments: &[&str]| {
            let mut command = Command::new(format!("tpm2_{tool}"));
            let command = command.args(arguments).current_dir(self.tpm.dir()).env("TPM2TOOLS_TCTI", &self.tpm.tcti);
            command.output().expect("tpm2-tools is installed").status.success()
        };
        let done = run(tool, arguments);
        assert!(run("flushcontext", &["-t"]));
        done
    }

    fn file(&self, name: &str) -> PathBuf {
        self.tpm.dir().join(name)
    }

    /// TPM2B_PUBLIC of a key, by handle or context file.
    fn public(&self, key: &str) -> Vec<u8> {
        assert!(self.run("readpublic", &["-c", key, "-f", "tss", "-o", "key.pub"]));
        fs::read(self.file("key.pub")).unwrap()
    }

    /// The secret, if the TPM gives it.
    fn activate(&self, ek: &str, credential: &Credential) -> Option<Vec<u8>> {
        // tpm2-tools' own file format: magic, version, both structures with their sizes.
        let header = [0xBA, 0xDC, 0xC0, 0xDE, 0, 0, 0, 1];
        let content = [&header[..], &tpm2b(&credential.id_object), &tpm2b(&credential.encrypted_secret)].concat();
        fs::write(self.file("credential"), content).unwrap();
        // PolicyA of the low templates; the high ones take the EK's empty password as well.
        let policy = ek != EK_HANDLES[1];
        let mut arguments = vec!["-c", "ak.ctx", "-C", ek, "-i", "credential", "-o", "opened"];
        if policy {
            assert!(self.run("startauthsession", &["--policy-session", "-S", "session"]));
            assert!(self.run("policysecret", &["-S", "session", "-c", "e"]));
            arguments.extend(["-P", "session:session"]);
        }
        let done = self.run("activatecredential", &arguments);
        if policy {
            assert!(self.run("flushcontext", &["session"]));
        }
        done.then(|| fs::read(self.file("opened")).unwrap())
    }

    /// The identity that the verifier gives this TPM by its certificates.
    fn identity(&self) -> DeviceIdentity {
        let folder = self.file("roots");
        fs::create_dir(&folder).unwrap();
        for root in &self.tpm.roots {
            EkRoots::add(&folder, root, RootClass::Software, Timestamp::now()).unwrap();
        }
        let certificates: Vec<_> = self.tpm.ek_certificates.iter().map(|file| fs::read(file).unwrap()).collect();
        let sent: Vec<_> = certificates.iter().map(Vec::as_slice).collect();
        let eks = EkChain::read(&sent).unwrap().verify(&EkRoots::load(&folder).unwrap(), Timestamp::now()).unwrap();
        DeviceIdentity::from_eks(eks).unwrap()
    }

    /// Each EK with where the TPM keeps it, the certified ones and a P-256 one made from its template.
    fn eks(&self) -> Vec<(&'static str, EkKey)> {
        let identity = self.identity();
        let [p384, rsa] = identity.eks() else { panic!("two certified keys") };
        for (handle, ek) in EK_HANDLES.into_iter().zip([rsa, p384]) {
            check_template(&self.public(handle), ek).unwrap();
        }
        assert!(self.run("createek", &["-G", "ecc", "-c", "p256.ctx", "-u", "p256.pub"]));
        let p256 = self.public("p256.ctx");
        let PublicKey::Ecc { x, y, .. } = Public::read(&p256).unwrap().key else { panic!("an ECC key") };
        let key = EkKey::P256([x, y].concat().try_into().unwrap());
        assert_eq!(tpm2b(&key.public_area()), p256, "template L-2");
        let certified = |ek: &VerifiedEk| ek.key().clone();
        vec![(EK_HANDLES[0], certified(rsa)), (EK_HANDLES[1], certified(p384)), ("p256.ctx", key)]
    }
}

#[test]
fn a_credential_opens_with_each_kind_of_ek_and_any_change_to_it_does_not() {
    let (tools, ak) = Tools::start();
    for (place, ek) in tools.eks() {
        let credential = make_credential(&ek, &ak.name(), &SECRET).unwrap();
        assert_eq!(tools.activate(place, &credential).as_deref(), Some(&SECRET[..]), "{place}");

        let mut bent = credential.clone();
        *bent.id_object.last_mut().unwrap() ^= 1;
        assert_eq!(tools.activate(place, &bent), None, "{place}");
        let mut bent = credential;
        *bent.encrypted_secret.last_mut().unwrap() ^= 1;
        assert_eq!(tools.activate(place, &bent), None, "{place}");
    }
}

#[test]
fn a_credential_for_another_key_or_another_tpm_does_not_open() {
    let (tools, ak) = Tools::start();
    let (other, other_ak) = Tools::start();
    for ((place, ek), (_, other_ek)) in tools.eks().into_iter().zip(other.eks()) {
        for (ek, name) in [(&ek, other_ak.name()), (&other_ek, ak.name())] {
            let credential = make_credential(ek, &name, &SECRET).unwrap();
            assert_eq!(tools.activate(place, &credential), None, "{place}");
        }
        // And the one that does, so that it was not the tools that failed.
        let right = make_credential(&ek, &ak.name(), &SECRET).unwrap();
        assert_eq!(tools.activate(place, &right).as_deref(), Some(&SECRET[..]), "{place}");
    }
}
