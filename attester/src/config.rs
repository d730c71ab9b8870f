//! Configuration of the device program: in go a TOML file and the environment, out comes what the program needs, checked.
//! `FileConfig` is what the user typed; [`Config`] is what it means.
//!
//! A key that nobody knows is an error which names the nearest one: a typo must not silently mean the default.

use std::{
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::HEXLOWER_PERMISSIVE;
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use serde::Deserialize;
use thiserror::Error;
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};
use zeroize::Zeroizing;

use crate::{
    boot_log::{DEFAULT_BOOT_LOG, DEFAULT_IMA_LOG},
    tpm::{DEFAULT_TCTI, RuntimePcr},
};

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_FILE: &str = "/etc/countersign/attester.toml";
/// What overrides: this, then the key, tables and keys joined by `__`.
pub const ENVIRONMENT: &str = "COUNTERSIGN_ATTESTER__";
/// Where the device keeps its runtime log and what it knows of its verifiers.
const DEFAULT_STATE_DIR: &str = "/var/lib/countersign/attester";
/// MQTT over TLS (IANA secure-mqtt).
const DEFAULT_PORT: u16 = 8883;
const DEFAULT_SWEEP_SECONDS: u32 = 300;
const DEFAULT_ATTEST_SECONDS: u32 = 3600;
/// Largest configuration: hand-written files have a few KiB.
const MAX_FILE: u64 = 1 << 20;
/// Independent verifiers of one device: as many as nonces fit an evidence message.
const MAX_VERIFIERS: usize = evidence::limits::MAX_NONCES;
/// A verifier's name is a level of MQTT topics.
const MAX_NAME: usize = 64;
/// Longest authorisation value: a TPM takes a digest's length (TPM 2.0 Part 2 §10.4.5).
const MAX_AUTH: usize = 64;

/// Keys of the top level, of `[broker]`, and of each `[[verifier]]`. A test compares them with [`FileConfig`].
const KEYS: &[&str] = &[
    "tcti",
    "state_dir",
    "boot_log",
    "ima_log",
    "endorsement_auth",
    "ak_counter",
    "runtime_pcr",
    "sweep_seconds",
    "attest_seconds",
    "results",
    "startup_grace_seconds",
    "broker",
    "verifier",
];
const BROKER_KEYS: &[&str] = &["address", "enrolment_address", "ca", "certificate", "key"];
const VERIFIER_KEYS: &[&str] = &["name", "key", "broker"];

/// What is wrong with the configuration. Exit code 2.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {file}: {source}")]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no TOML, or a value has the wrong type.
    #[error("{place}: {why}")]
    Syntax {
        /// File, line and column, or the environment variable.
        place: String,
        /// What is wrong there.
        why: String,
    },
    /// A key that does not exist.
    #[error("{place}: there is no key `{key}`{}", nearest.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
    UnknownKey {
        /// File, line and column, or the environment variable.
        place: String,
        /// What was written.
        key: String,
        /// The key that it resembles most.
        nearest: Option<&'static str>,
    },
    /// A value that cannot be.
    #[error("`{key}` in the configuration: {why}")]
    Value {
        /// Which key.
        key: String,
        /// What is wrong with its value.
        why: String,
    },
}

/// A value that is shown nowhere, and wiped when it is dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(value: Vec<u8>) -> Self {
        Self(Zeroizing::new(value))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What the user typed. Not `Debug`: it holds secrets.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    tcti: Option<String>,
    state_dir: Option<PathBuf>,
    boot_log: Option<PathBuf>,
    ima_log: Option<PathBuf>,
    endorsement_auth: Option<String>,
    ak_counter: Option<u32>,
    runtime_pcr: Option<u8>,
    sweep_seconds: Option<u32>,
    attest_seconds: Option<u32>,
    results: Option<FileResults>,
    startup_grace_seconds: Option<u32>,
    broker: Option<FileBroker>,
    #[serde(default)]
    verifier: Vec<FileVerifier>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileResults {
    Changed,
    Always,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileBroker {
    address: String,
    enrolment_address: Option<String>,
    ca: PathBuf,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileVerifier {
    name: String,
    key: PathBuf,
    broker: Option<FileBroker>,
}

/// What the program needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the TPM is.
    pub tcti: String,
    /// Folder for the runtime log and what else must survive a restart of the program.
    pub state_dir: PathBuf,
    /// Measured-boot log.
    pub boot_log: PathBuf,
    /// IMA list, binary.
    pub ima_log: PathBuf,
    /// Authorisation value of the TPM's endorsement hierarchy.
    pub endorsement_auth: Secret,
    /// Which of the TPM's attestation keys.
    pub ak_counter: u32,
    /// PCR of the runtime log.
    pub runtime_pcr: RuntimePcr,
    /// Time from one sweep over running processes to the next.
    pub sweep_every: Duration,
    /// Time from one attestation to the next, with a verifier that publishes no epochs.
    pub attest_every: Duration,
    /// Whether a signed result is asked for in each epoch, rather than where something changed.
    pub results_always: bool,
    /// How long `attester wait` waits where nobody judges this device; then it lets it pass. None: for ever.
    pub startup_grace: Option<Duration>,
    /// Where evidence goes, `[broker]` first; commands that send none do without.
    pub brokers: Vec<Broker>,
    /// Whose results are accepted.
    pub verifiers: Vec<Verifier>,
}

/// MQTT broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Host name, as its certificate must have it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Host and port for a device that has no certificate of its own yet; elsewhere where strangers have a broker apart.
    pub enrolment: (String, u16),
    /// PEM certificates of the CA that the broker's certificate must come from.
    pub ca: PathBuf,
    /// First credentials, until enrolment hands out the device's own.
    pub credentials: Option<Credentials>,
}

impl Broker {
    /// Host and port, as messages name it.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Client certificate and key, PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// A pinned verifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Its name in topics.
    pub name: String,
    /// Its root key, DER SubjectPublicKeyInfo.
    pub key: Vec<u8>,
    /// Its broker, by index in [`Config::brokers`].
    pub broker: usize,
}

impl Config {
    /// Reads `file`, or [`DEFAULT_FILE`] if there is one, and lets the environment override it.
    ///
    /// # Errors
    /// [`ConfigError`], which says where and what.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let text = match file {
            Some(file) => read(file)?,
            None => match read(Path::new(DEFAULT_FILE)) {
                Err(ConfigError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    String::new()
                }
                read => read?,
            },
        };
        let mut table = parse(file.unwrap_or(Path::new(DEFAULT_FILE)), &text)?;
        for (name, value) in environment {
            override_key(&mut table, &name, &value)?;
        }
        // The file alone has passed this: only the environment can be wrong here.
        let typed = FileConfig::deserialize(table).map_err(|error| ConfigError::Syntax {
            place: "environment".to_owned(),
            why: error.message().to_owned(),
        })?;
        Self::from_typed(typed)
    }

    fn from_typed(typed: FileConfig) -> Result<Self, ConfigError> {
        let seconds = |key: &str, typed: Option<u32>, default| match typed.unwrap_or(default) {
            0 => Err(wrong(key, "must be at least 1")),
            seconds => Ok(Duration::from_secs(seconds.into())),
        };
        let runtime_pcr = match typed.runtime_pcr {
            None => RuntimePcr::DEFAULT,
            Some(index) => RuntimePcr::new(index).ok_or_else(|| wrong("runtime_pcr", "must be 12, 13, 14 or 15"))?,
        };
        let path = |typed: Option<PathBuf>, default: &str| typed.unwrap_or_else(|| PathBuf::from(default));
        let (brokers, verifiers) = network(typed.broker, typed.verifier)?;
        Ok(Self {
            tcti: typed.tcti.unwrap_or_else(|| DEFAULT_TCTI.to_owned()),
            state_dir: path(typed.state_dir, DEFAULT_STATE_DIR),
            boot_log: path(typed.boot_log, DEFAULT_BOOT_LOG),
            ima_log: path(typed.ima_log, DEFAULT_IMA_LOG),
            endorsement_auth: auth(typed.endorsement_auth.map(Zeroizing::new))?,
            ak_counter: typed.ak_counter.unwrap_or(0),
            runtime_pcr,
            sweep_every: seconds("sweep_seconds", typed.sweep_seconds, DEFAULT_SWEEP_SECONDS)?,
            attest_every: seconds("attest_seconds", typed.attest_seconds, DEFAULT_ATTEST_SECONDS)?,
            results_always: typed.results == Some(FileResults::Always),
            startup_grace: typed
                .startup_grace_seconds
                .filter(|seconds| *seconds != 0)
                .map(|seconds| Duration::from_secs(seconds.into())),
            brokers,
            verifiers,
        })
    }
}

fn wrong(key: &str, why: impl Into<String>) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), why: why.into() }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    if fs::metadata(file).map_err(unreadable)?.len() > MAX_FILE {
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, "too large for a configuration")));
    }
    fs::read_to_string(file).map_err(unreadable)
}

/// The file's table, after its keys and types were checked.
fn parse(file: &Path, text: &str) -> Result<Table, ConfigError> {
    let syntax = |error: &toml::de::Error| ConfigError::Syntax {
        place: place(file, text, error.span().map_or(0, |span| span.start)),
        why: error.message().to_owned(),
    };
    let document = DeTable::parse(text).map_err(|error| syntax(&error))?;
    check_keys(document.get_ref(), KEYS, &|key, at, known| unknown(place(file, text, at), key, known))?;
    toml::from_str::<FileConfig>(text).map_err(|error| syntax(&error))?;
    toml::from_str(text).map_err(|error| syntax(&error))
}

/// Refuses keys that are not known, in the file's tables and theirs.
fn check_keys(
    table: &DeTable<'_>,
    known: &'static [&'static str],
    refuse: &dyn Fn(&str, usize, &'static [&'static str]) -> ConfigError,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if !known.contains(&name) {
            return Err(refuse(name, key.span().start, known));
        }
        // A broker's table holds no other, and a verifier's a broker's alone: no deeper recursion, whatever the file says.
        let inner = match name {
            "broker" => BROKER_KEYS,
            "verifier" if known == KEYS => VERIFIER_KEYS,
            _ => continue,
        };
        let tables: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![value],
        };
        for inner_table in tables.into_iter().filter_map(|value| value.get_ref().as_table()) {
            check_keys(inner_table, inner, refuse)?;
        }
    }
    Ok(())
}

fn unknown(place: String, key: &str, known: &'static [&'static str]) -> ConfigError {
    let score = |name: &&&str| (strsim::jaro_winkler(key, name) * 1000.0) as u32;
    let nearest = known.iter().max_by_key(score).filter(|name| score(name) >= 700).copied();
    ConfigError::UnknownKey { place, key: key.to_owned(), nearest }
}

/// `file:line:column`, counted from 1.
fn place(file: &Path, text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{}:{line}:{column}", file.display())
}

/// Puts one variable of the environment over the file's key.
fn override_key(table: &mut Table, name: &OsString, value: &OsString) -> Result<(), ConfigError> {
    let Some(path) = name.to_str().and_then(|name| name.strip_prefix(ENVIRONMENT)) else { return Ok(()) };
    let variable = format!("environment variable {ENVIRONMENT}{path}");
    let path = path.to_lowercase();
    let (key, inner) = path.split_once("__").map_or((path.as_str(), None), |(key, inner)| (key, Some(inner)));
    if !KEYS.contains(&key) {
        return Err(unknown(variable, key, KEYS));
    }
    let syntax = |why: &str| ConfigError::Syntax { place: variable.clone(), why: why.to_owned() };
    let value = value.to_str().ok_or_else(|| syntax("is not UTF-8"))?;
    match (key, inner) {
        ("broker", Some(inner)) if !BROKER_KEYS.contains(&inner) => Err(unknown(variable, inner, BROKER_KEYS)),
        ("broker", Some(inner)) => {
            let broker = table.entry("broker").or_insert_with(|| Value::Table(Table::new()));
            let broker = broker.as_table_mut().ok_or_else(|| syntax("`broker` is not a table"))?;
            broker.insert(inner.to_owned(), Value::String(value.to_owned()));
            Ok(())
        }
        (key, None) => {
            table.insert(key.to_owned(), typed(key, value).map_err(|why| syntax(&why))?);
            Ok(())
        }
        (_, Some(_)) => Err(syntax("this key has no keys of its own")),
    }
}

/// A variable's text as the type of its key.
fn typed(key: &str, text: &str) -> Result<Value, String> {
    match key {
        "ak_counter" | "runtime_pcr" | "sweep_seconds" | "attest_seconds" | "startup_grace_seconds" => {
            text.parse().map(Value::Integer).map_err(|_| format!("`{text}` is not a whole number"))
        }
        "broker" | "verifier" => toml::from_str::<Table>(&format!("value = {text}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .ok_or_else(|| format!("`{text}` is not TOML (a table for `broker`, an array of tables for `verifier`)")),
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// `hex:…`, or the text itself, as tpm2-tools take it.
fn auth(typed: Option<Zeroizing<String>>) -> Result<Secret, ConfigError> {
    let Some(typed) = typed else { return Ok(Secret::default()) };
    let secret = Secret::from(match typed.strip_prefix("hex:") {
        Some(hex) => HEXLOWER_PERMISSIVE
            .decode(hex.as_bytes())
            .map_err(|_| wrong("endorsement_auth", "what follows `hex:` is not hexadecimal"))?,
        None => typed.as_bytes().to_vec(),
    });
    if secret.expose().len() > MAX_AUTH {
        return Err(wrong("endorsement_auth", format!("is longer than {MAX_AUTH} bytes")));
    }
    Ok(secret)
}

fn broker(typed: FileBroker) -> Result<Broker, ConfigError> {
    let (host, port) = place_of("broker.address", &typed.address)?;
    let enrolment = match &typed.enrolment_address {
        Some(address) => place_of("broker.enrolment_address", address)?,
        None => (host.clone(), port),
    };
    let credentials = match (typed.certificate, typed.key) {
        (Some(certificate), Some(key)) => Some(Credentials { certificate, key }),
        (None, None) => None,
        _ => return Err(wrong("broker", "`certificate` and `key` go together: one of them is missing")),
    };
    Ok(Broker { host, port, enrolment, ca: typed.ca, credentials })
}

/// Host and port of what was typed for `key`.
fn place_of(key: &str, text: &str) -> Result<(String, u16), ConfigError> {
    let port_of = |port: &str| match port.parse() {
        Ok(0) | Err(_) => Err(wrong(key, format!("`{port}` is not a port"))),
        Ok(port) => Ok(port),
    };
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, DEFAULT_PORT),
        Some((host, rest)) => (host, port_of(rest.trim_start_matches(':'))?),
        None => match text.split_once(':') {
            Some((host, port)) => (host, port_of(port)?),
            None => (text, DEFAULT_PORT),
        },
    };
    if host.is_empty() || host.contains(['/', ' ']) {
        return Err(wrong(key, format!("`{text}` is not HOST or HOST:PORT")));
    }
    Ok((host.to_owned(), port))
}

/// Brokers, each once, and the verifiers that are reached over them.
fn network(default: Option<FileBroker>, typed: Vec<FileVerifier>) -> Result<(Vec<Broker>, Vec<Verifier>), ConfigError> {
    if typed.len() > MAX_VERIFIERS {
        return Err(wrong("verifier", format!("at most {MAX_VERIFIERS} verifiers fit one evidence message")));
    }
    let needs_default = typed.is_empty() || typed.iter().any(|verifier| verifier.broker.is_none());
    let mut brokers: Vec<Broker> = default.map(broker).transpose()?.filter(|_| needs_default).into_iter().collect();
    let has_default = !brokers.is_empty();
    let mut verifiers: Vec<Verifier> = Vec::with_capacity(typed.len());
    for FileVerifier { name, key, broker: own } in typed {
        check_name(&name)?;
        if verifiers.iter().any(|other| other.name == name) {
            return Err(wrong("verifier.name", format!("`{name}` stands there twice")));
        }
        let unusable = |error| wrong("verifier.key", format!("{}: no PEM public key there: {error}", key.display()));
        let der = SubjectPublicKeyInfoDer::from_pem_file(&key).map_err(unusable)?;
        let broker = match own {
            Some(own) => place_among(&mut brokers, broker(own)?)?,
            None if has_default => 0,
            None => return Err(wrong("broker", format!("is missing, and `{name}` has no `[verifier.broker]`"))),
        };
        verifiers.push(Verifier { name, key: der.to_vec(), broker });
    }
    Ok((brokers, verifiers))
}

/// Index of a broker, which is added unless it is there. A device has one connection to a broker, which drops the older of
/// two: they would throw each other out for ever.
fn place_among(brokers: &mut Vec<Broker>, broker: Broker) -> Result<usize, ConfigError> {
    match brokers.iter().position(|known| known.place() == broker.place()) {
        Some(at) if brokers.get(at) == Some(&broker) => Ok(at),
        Some(_) => {
            let why = format!("{} stands there twice and differently: write the same each time", broker.place());
            Err(wrong("verifier.broker", why))
        }
        None => {
            brokers.push(broker);
            Ok(brokers.len() - 1)
        }
    }
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(legal) {
        return Err(wrong("verifier.name", format!("`{name}`: letters, digits, `-`, `_`, `.`, at most {MAX_NAME}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMAMBAf8=\n-----END PUBLIC KEY-----\n";

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("attester.toml");
        fs::write(dir.path().join("root.pem"), PEM).unwrap();
        fs::write(&file, text.replace("DIR", dir.path().to_str().unwrap())).unwrap();
        let environment = environment.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
        Config::load(Some(&file), environment)
    }

    fn said(text: &str, environment: &[(&str, &str)]) -> String {
        load(text, environment).unwrap_err().to_string()
    }

    #[test]
    fn nothing_typed_means_the_defaults() {
        let config = load("", &[]).unwrap();
        assert_eq!((config.tcti.as_str(), config.runtime_pcr.index()), (DEFAULT_TCTI, 14));
        assert_eq!(config.state_dir, Path::new(DEFAULT_STATE_DIR));
        assert_eq!((config.sweep_every.as_secs(), config.attest_every.as_secs()), (300, 3600));
        assert!(config.brokers.is_empty() && config.verifiers.is_empty() && !config.results_always);
        assert_eq!(config.startup_grace, None);
    }

    #[test]
    fn every_key_is_read() {
        let config = load(
            "tcti = 'tabrmd'\nstate_dir = '/s'\nboot_log = '/b'\nima_log = '/i'\nendorsement_auth = 'hex:0aFF'\n\
             ak_counter = 2\nruntime_pcr = 12\nsweep_seconds = 5\nattest_seconds = 6\nresults = 'always'\n\
             startup_grace_seconds = 7\n\
             [broker]\naddress = '[::1]:1883'\nenrolment_address = 'e'\nca = '/ca'\ncertificate = '/c'\nkey = '/k'\n\
             [[verifier]]\nname = 'v1'\nkey = 'DIR/root.pem'\n",
            &[],
        )
        .unwrap();
        assert_eq!(config.endorsement_auth.expose(), [0x0A, 0xFF]);
        assert!(format!("{config:?}").contains("endorsement_auth: Secret,"), "shown nowhere");
        assert_eq!((config.ak_counter, config.runtime_pcr.index()), (2, 12));
        assert!(config.results_always);
        assert_eq!(config.startup_grace, Some(Duration::from_secs(7)));
        let broker = &config.brokers[0];
        assert_eq!((broker.host.as_str(), broker.port), ("::1", 1883));
        assert_eq!(broker.enrolment, ("e".to_owned(), DEFAULT_PORT));
        let key = vec![0x30, 3, 1, 1, 0xFF];
        assert_eq!(config.verifiers, [Verifier { name: "v1".to_owned(), key, broker: 0 }]);
    }

    #[test]
    fn verifiers_with_the_same_broker_share_it() {
        let own = |name: &str, address: &str| {
            format!(
                "[[verifier]]\nname = '{name}'\nkey = 'DIR/root.pem'\n\
                 [verifier.broker]\naddress = '{address}'\nca = '/ca'\n"
            )
        };
        let default = "[broker]\naddress = 'a'\nca = '/ca'\n[[verifier]]\nname = 'v0'\nkey = 'DIR/root.pem'\n";
        let text = [default, &own("v1", "b"), &own("v2", "a"), &own("v3", "b")].concat();
        let config = load(&text, &[]).unwrap();
        assert_eq!(config.brokers.iter().map(|broker| broker.host.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(config.verifiers.iter().map(|verifier| verifier.broker).collect::<Vec<_>>(), [0, 1, 0, 1]);
        let config = load(&[own("v1", "b"), own("v2", "c")].concat(), &[]).unwrap();
        assert_eq!(config.brokers.len(), 2, "nobody needs a broker for all");
    }

    #[test]
    fn one_broker_written_in_two_ways_is_refused() {
        let own = |name: &str, ca: &str| {
            format!(
                "[[verifier]]\nname = '{name}'\nkey = 'DIR/root.pem'\n[verifier.broker]\naddress = 'b'\nca = '{ca}'\n"
            )
        };
        assert!(load(&[own("v1", "/ca"), own("v2", "/ca")].concat(), &[]).is_ok());
        let error = load(&[own("v1", "/ca"), own("v2", "/other")].concat(), &[]).unwrap_err().to_string();
        assert!(error.contains("`verifier.broker`") && error.contains("b:8883"), "{error}");
    }

    #[test]
    fn every_key_is_documented() {
        let page = include_str!("../../docs/attester.md");
        let example = page.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        for key in [KEYS, BROKER_KEYS, VERIFIER_KEYS].concat() {
            let named = |line: &str| line.starts_with(&format!("{key} = ")) || line.contains(&format!("{key}]"));
            assert!(example.lines().any(named), "{key}");
        }
        let table = parse(Path::new("attester.md"), example).unwrap();
        assert_eq!(FileConfig::deserialize(table).unwrap().verifier.len(), 2, "and the example reads");
    }

    #[test]
    fn a_typo_is_named_with_its_place_and_the_nearest_key() {
        let message = said("tcti = 'tabrmd'\nstate_dri = '/s'\n", &[]);
        assert!(
            message.contains("attester.toml:2:1: there is no key `state_dri`; did you mean `state_dir`?"),
            "{message}"
        );
        let message = said("[broker]\n  adress = 'a'\n", &[]);
        assert!(message.contains(":2:3: there is no key `adress`; did you mean `address`?"), "{message}");
        let message = said("[[verifier]]\nname = 'a'\n[verifier.broker]\nadress = 'a'\n", &[]);
        assert!(message.contains(":4:1:") && message.contains("`address`"), "{message}");
        let message = said("[[verifier]]\nnane = 'a'\n", &[]);
        assert!(message.contains(":2:1:") && message.contains("`name`"), "{message}");
        let message = said("", &[("COUNTERSIGN_ATTESTER__STATEDIR", "/s")]);
        assert!(message.contains("COUNTERSIGN_ATTESTER__STATEDIR") && message.contains("`state_dir`"), "{message}");
        assert!(!said("qqqq = 1", &[]).contains("did you mean"));
    }

    #[test]
    fn wrong_types_and_bad_toml_are_named_with_line_and_column() {
        assert!(said("\nsweep_seconds = 'often'\n", &[]).contains("attester.toml:2:17: "));
        assert!(said("tcti = \n", &[]).contains("attester.toml:1:"));
        assert!(said("", &[("COUNTERSIGN_ATTESTER__SWEEP_SECONDS", "often")]).contains("whole number"));
    }

    #[test]
    fn the_environment_goes_over_the_file() {
        let config = load(
            "state_dir = '/file'\n[broker]\naddress = 'file'\nca = '/ca'\n",
            &[
                ("COUNTERSIGN_ATTESTER__STATE_DIR", "/env"),
                ("COUNTERSIGN_ATTESTER__BROKER__ADDRESS", "env:1"),
                ("COUNTERSIGN_ATTESTER__SWEEP_SECONDS", "9"),
                ("COUNTERSIGN_ATTESTER__STARTUP_GRACE_SECONDS", "0"),
                ("HOME", "/root"),
            ],
        )
        .unwrap();
        assert_eq!((config.state_dir.to_str(), config.sweep_every.as_secs()), (Some("/env"), 9));
        assert_eq!(config.startup_grace, None, "0 seconds are no grace");
        let broker = &config.brokers[0];
        assert_eq!((broker.host.as_str(), broker.port), ("env", 1));
        assert_eq!(broker.enrolment, ("env".to_owned(), 1), "where no other place is named");
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (text, key) in [
            ("runtime_pcr = 10", "runtime_pcr"),
            ("sweep_seconds = 0", "sweep_seconds"),
            ("endorsement_auth = 'hex:xy'", "endorsement_auth"),
            ("[broker]\naddress = 'h:0'\nca = ''", "broker.address"),
            ("[broker]\naddress = 'mqtts://h'\nca = ''", "broker.address"),
            ("[broker]\naddress = 'h'\nenrolment_address = 'h:x'\nca = ''", "broker.enrolment_address"),
            ("[broker]\naddress = 'h'\nca = ''\nkey = 'k'", "certificate"),
            ("results = 'never'", "`changed`"),
            ("[[verifier]]\nname = 'a'\nkey = 'DIR/root.pem'", "[verifier.broker]"),
            ("[[verifier]]\nname = 'a/b'\nkey = 'DIR/root.pem'", "verifier.name"),
            ("[[verifier]]\nname = 'a'\nkey = 'DIR/none.pem'", "verifier.key"),
        ] {
            assert!(said(text, &[]).contains(key), "{text}");
        }
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let error = Config::load(Some(Path::new("/nonexistent.toml")), []).unwrap_err();
        assert!(error.to_string().contains("/nonexistent.toml"));
    }
}
