//! `verifier init`: in go a folder that does not exist yet, a name and addresses; out comes everything a verifier needs to
//! start: keys, certificates, the brokers' configuration, a commented one of its own, and one for devices. All or nothing:
//! it is laid out beside the folder and renamed into place.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use appraisal::UnixSeconds;
use data_encoding::HEXLOWER;
use evidence::{limits::MAX_MESSAGE, topic::Name};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};
use thiserror::Error;

use crate::certificates::{BrokerCa, CLOCK_SKEW, CertificateError, Credentials, Kind};

/// Broker configuration and topic rules, as they ship.
const MOSQUITTO: &str = include_str!("../../../packaging/mosquitto/mosquitto.conf.in");
const ACL: &str = include_str!("../../../packaging/mosquitto/acl.in");
const ENROLMENT: &str = include_str!("../../../packaging/mosquitto/enrolment.conf.in");
const ENROLMENT_ACL: &str = include_str!("../../../packaging/mosquitto/enrolment-acl.in");
const VERIFIER: &str = include_str!("init/verifier.toml.in");
const POLICY: &str = include_str!("init/policy.toml");
const DENY: &str = include_str!("init/deny.toml");
const ATTESTER: &str = include_str!("init/attester.toml.in");
/// User of the certificate that devices share for their first connection.
pub const ENROL_USER: &str = "enrol";
/// User that the broker for who enrols is at the devices' broker.
pub const BRIDGE_USER: &str = "enrolment-bridge";
/// Longest message of an enrolment: with five certificates it takes 10 KiB.
const MAX_ENROLMENT: usize = 16 * 1024;
/// Around a message: topic, properties and headers of an MQTT packet, bytes.
pub const PACKET_MARGIN: usize = 4 * 1024;

/// Nothing was made.
#[derive(Debug, Error)]
pub enum InitError {
    /// There is something already.
    #[error("{} exists and is not empty: nothing was changed; name a new folder, or move that one away", .0.display())]
    Exists(PathBuf),
    /// A path that cannot stand in the broker's configuration.
    #[error("{} cannot be used: it has no name, or one with control characters or not UTF-8", .0.display())]
    Path(PathBuf),
    /// A file or folder.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Keys and certificates.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// ring gives no random numbers.
    #[error("the system's random number generator gives nothing")]
    Random,
}

impl InitError {
    /// Whether the call was wrong (exit code 2), rather than the machine.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Exists(_) | Self::Path(_))
    }
}

/// What to make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Folder.
    pub dir: PathBuf,
    /// Verifier's name.
    pub name: Name,
    /// Where the broker listens for devices.
    pub broker: (String, u16),
    /// Port for who enrols, on the same host.
    pub enrolment_port: u16,
    /// Port for verifiers, on this machine.
    pub service_port: u16,
    /// Where the HTTP API listens.
    pub http: SocketAddr,
    /// Certificates begin now.
    pub now: UnixSeconds,
}

/// Makes it. Returns the folder's absolute path.
///
/// # Errors
/// [`InitError`]; then nothing is left behind.
pub fn init(plan: &Plan) -> Result<PathBuf, InitError> {
    let target = target(&plan.dir)?;
    let (Some(parent), Some(name)) = (target.parent(), target.file_name().and_then(|name| name.to_str())) else {
        return Err(InitError::Path(plan.dir.clone()));
    };
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| InitError::Random)?;
    let unfinished = parent.join(format!(".{name}.{}", HEXLOWER.encode(&random)));
    let made = lay_out(&Tree { root: &unfinished }, &target, plan).and_then(|()| {
        // Onto an empty folder or nothing, never onto anything else.
        fs::rename(&unfinished, &target).map_err(|source| match source.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => InitError::Exists(target.clone()),
            _ => InitError::Io { path: target.clone(), source },
        })
    });
    match made {
        Ok(()) => Ok(target),
        Err(error) => {
            // The first error is the one to tell; what cannot be removed lies under a name of its own.
            drop(fs::remove_dir_all(&unfinished));
            Err(error)
        }
    }
}

/// The absolute path, where nothing stands in the way.
fn target(dir: &Path) -> Result<PathBuf, InitError> {
    let path = || InitError::Path(dir.to_owned());
    let name = dir.file_name().ok_or_else(path)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent.canonicalize().map_err(|source| InitError::Io { path: parent.to_owned(), source })?;
    let target = parent.join(name);
    if target.to_str().is_none_or(|text| text.chars().any(char::is_control)) {
        return Err(path());
    }
    match fs::read_dir(&target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(target),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(InitError::Exists(target)),
        Err(source) => Err(InitError::Io { path: target, source }),
        Ok(mut entries) => {
            if entries.next().is_none() {
                Ok(target)
            } else {
                Err(InitError::Exists(target))
            }
        }
    }
}

fn lay_out(tree: &Tree<'_>, target: &Path, plan: &Plan) -> Result<(), InitError> {
    for folder in ["", "ek_roots", "ek_roots/software", "reference_values", "trust", "broker"] {
        tree.folder(folder, 0o755)?;
    }
    for folder in ["data", "broker/data"] {
        tree.folder(folder, 0o700)?;
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CertificateError::from)?;
    tree.private("root-key.pem", &zeroize::Zeroizing::new(key.serialize_pem()))?;
    tree.public("verifier.pub.pem", &key.public_key_pem())?;
    let mut token = zeroize::Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *token).map_err(|_| InitError::Random)?;
    tree.private("api-token", &zeroize::Zeroizing::new(HEXLOWER.encode(&*token) + "\n"))?;
    lay_out_certificates(tree, plan)?;
    lay_out_broker(tree, &target.join("broker"), plan)?;
    let (host, port) = &plan.broker;
    let fill = |template: &str| {
        template
            .replace("@NAME@", plan.name.as_str())
            .replace("@HOST@", host)
            .replace("@PORT@", &port.to_string())
            .replace("@ENROLMENT_PORT@", &plan.enrolment_port.to_string())
            .replace("@SERVICE_PORT@", &plan.service_port.to_string())
            .replace("@HTTP@", &plan.http.to_string())
            .replace("@MAX_MESSAGE@", &MAX_MESSAGE.to_string())
    };
    tree.public("verifier.toml", &fill(VERIFIER))?;
    tree.public("attester.toml.example", &fill(ATTESTER))?;
    tree.public("deny.toml", DENY)?;
    tree.public("policy.toml", POLICY)
}

/// Three CAs, so that who has a certificate of one is nobody at the others' listeners.
fn lay_out_certificates(tree: &Tree<'_>, plan: &Plan) -> Result<(), InitError> {
    let mut hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    if !hosts.contains(&plan.broker.0) {
        hosts.push(plan.broker.0.clone());
    }
    let write = |name: &str, Credentials { certificate, key }: Credentials| {
        tree.public(&format!("broker/{name}.pem"), &certificate)?;
        tree.private(&format!("broker/{name}.key"), &key)
    };
    let (services, files) = BrokerCa::make(Kind::Services, plan.now)?;
    write("ca", files)?;
    write("server", services.server(&hosts, plan.now)?)?;
    write("verifier", services.client(plan.name.as_str(), plan.now)?)?;
    write("bridge", services.client(BRIDGE_USER, plan.now)?)?;
    let (devices, files) = BrokerCa::make(Kind::Devices, plan.now)?;
    write("devices-ca", files)?;
    tree.public("broker/devices.crl", &devices.revocation_list(&[], plan.now.saturating_sub(CLOCK_SKEW))?)?;
    let (enrolment, files) = BrokerCa::make(Kind::Enrolment, plan.now)?;
    write("enrolment-ca", files)?;
    write("enrol", enrolment.client(ENROL_USER, plan.now)?)
}

fn lay_out_broker(tree: &Tree<'_>, dir: &Path, plan: &Plan) -> Result<(), InitError> {
    let (host, port) = &plan.broker;
    let listener = |port: u16| match host.as_str() {
        "localhost" => format!("{port} 127.0.0.1"),
        host if host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback()) => format!("{port} {host}"),
        _ => port.to_string(),
    };
    let owner = fs::metadata(tree.root).map_err(|source| InitError::Io { path: tree.root.to_owned(), source })?.uid();
    // Started by root, mosquitto becomes another user, who may not read the keys here.
    let user = if owner == 0 {
        "# Run the verifier under an account of its own, then this line has no effect.\nuser root"
    } else {
        ""
    };
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).map_err(|_| InitError::Random)?;
    let fill = |template: &str| {
        template
            .replace("@USER@", user)
            .replace("@DEVICES@", &listener(*port))
            .replace("@ENROLMENT@", &listener(plan.enrolment_port))
            .replace("@SERVICE_PORT@", &plan.service_port.to_string())
            .replace("@BRIDGE@", &format!("{BRIDGE_USER}-{}", HEXLOWER.encode(&random)))
            .replace("@MAX_MESSAGE@", &MAX_MESSAGE.to_string())
            .replace("@MAX_PACKET@", &(MAX_MESSAGE + PACKET_MARGIN).to_string())
            .replace("@MAX_ENROLMENT@", &MAX_ENROLMENT.to_string())
            .replace("@MAX_ENROLMENT_PACKET@", &(MAX_ENROLMENT + PACKET_MARGIN).to_string())
            .replace("@NAME@", plan.name.as_str())
            .replace("@DIR@", &dir.display().to_string())
    };
    tree.public("broker/mosquitto.conf", &fill(MOSQUITTO))?;
    tree.public("broker/acl", &fill(ACL))?;
    // It holds the bridge's client id, with which another client of the services could end the bridge.
    tree.private("broker/enrolment.conf", &fill(ENROLMENT))?;
    tree.public("broker/enrolment-acl", ENROLMENT_ACL)
}

/// Where files are made, each of them new.
struct Tree<'a> {
    root: &'a Path,
}

impl Tree<'_> {
    fn folder(&self, name: &str, mode: u32) -> Result<(), InitError> {
        let path = self.root.join(name);
        fs::DirBuilder::new().mode(mode).create(&path).map_err(|source| InitError::Io { path, source })
    }

    fn private(&self, name: &str, content: &str) -> Result<(), InitError> {
        self.file(name, content, 0o600)
    }

    fn public(&self, name: &str, content: &str) -> Result<(), InitError> {
        self.file(name, content, 0o644)
    }

    fn file(&self, name: &str, content: &str, mode: u32) -> Result<(), InitError> {
        let path = self.root.join(name);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| InitError::Io { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use appraisal::Policy;

    use super::*;
    use crate::{
        broker_access::{Access, ShutOut},
        config::Config,
        keys::SigningKey,
    };

    const NOW: u64 = 1_795_000_000;

    fn plan(dir: PathBuf) -> Plan {
        Plan {
            dir,
            name: Name::new("v1").unwrap(),
            broker: ("broker.example".to_owned(), 8883),
            enrolment_port: 8884,
            service_port: 8885,
            http: "127.0.0.1:0".parse().unwrap(),
            now: NOW,
        }
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
            .collect()
    }

    #[test]
    fn what_it_makes_is_complete_and_what_is_secret_is_the_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let dir = init(&plan(parent.path().join("v"))).unwrap();
        let secret = |path: &Path| {
            path.extension().is_some_and(|e| e == "key")
                || path.ends_with("root-key.pem")
                || path.ends_with("enrolment.conf")
                || path.ends_with("api-token")
        };
        let all = files(&dir);
        assert_eq!(all.iter().filter(|path| secret(path)).count(), 10, "{all:?}");
        for path in &all {
            let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert!(if secret(path) { mode == 0o600 } else { mode & 0o133 == 0 }, "{} {mode:o}", path.display());
            assert!(!fs::read_to_string(path).unwrap().contains('@'), "{}", path.display());
        }
        let config = Config::load(Some(&dir.join("verifier.toml")), []).unwrap();
        assert_eq!((config.name.as_str(), config.broker.host.as_str(), config.broker.port), ("v1", "localhost", 8885));
        assert!(config.broker.spawn && config.broker.mosquitto.is_file() && config.broker.enrolment.is_file());
        assert!(config.broker.ca_key.is_file() && config.broker.device_ca.is_file() && config.broker.crl.is_file());
        let example = fs::read_to_string(dir.join("attester.toml.example")).unwrap();
        assert!(example.contains("\naddress = \"broker.example:8883\"\nenrolment_address = \"broker.example:8884\"\n"));
        assert!(config.ek_roots.join("software").is_dir() && config.trust.is_dir() && config.data_dir.is_dir());
        let access = Access::from_config(&config.broker).unwrap();
        assert!(!access.update(&ShutOut::default(), NOW).unwrap(), "nobody is shut out, and the files say so");
        SigningKey::load(&config.key).unwrap();
        assert_eq!(Policy::from_toml(&fs::read_to_string(config.policy).unwrap()).unwrap(), Policy::default());
    }

    #[test]
    fn every_key_of_the_configuration_stands_in_the_commented_file() {
        for key in ["name", "data_dir", "key", "ek_roots", "reference_values", "trust", "policy"] {
            assert!(VERIFIER.contains(&format!("\n{key} = ")), "{key}");
        }
        let broker = VERIFIER.split("[broker]").nth(1).unwrap();
        for key in [
            "address",
            "ca",
            "certificate",
            "key",
            "device_ca",
            "ca_key",
            "# issued",
            "admit",
            "crl",
            "acl",
            "spawn",
            "mosquitto",
            "enrolment",
            "max_message_bytes",
        ] {
            assert!(broker.contains(&format!("\n{key} = ")), "{key}");
        }
        let http = VERIFIER.split("[http]").nth(1).unwrap();
        for key in ["listen", "token_file", "# url"] {
            assert!(http.contains(&format!("\n{key} = ")), "{key}");
        }
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_is_left_of_a_failure() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("v");
        fs::create_dir(&dir).unwrap();
        init(&plan(dir.clone())).unwrap();
        let key = fs::read(dir.join("root-key.pem")).unwrap();
        let error = init(&plan(dir.clone())).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("not empty"), "{error}");
        assert_eq!(fs::read(dir.join("root-key.pem")).unwrap(), key);
        let missing = init(&plan(parent.path().join("no/v"))).unwrap_err();
        assert!(missing.to_string().contains("/no"), "{missing}");
        assert!(init(&plan("/".into())).is_err());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
