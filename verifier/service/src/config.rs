//! Configuration of the server program: in go a TOML file and the environment, out comes what the program needs, checked.
//! `FileConfig` is what the user typed; [`Config`] is what it means. Relative paths count from the file's folder, and
//! the defaults are what `verifier init` lays out there.
//!
//! A key that nobody knows is an error which names the nearest one: a typo must not silently mean the default.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use evidence::{limits::MAX_MESSAGE, topic::Name};
use serde::Deserialize;
use thiserror::Error;
use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_FILE: &str = "/etc/countersign/verifier.toml";
/// What overrides: this, then the key, tables and keys joined by `__`.
pub const ENVIRONMENT: &str = "COUNTERSIGN_VERIFIER__";
/// Name of a verifier that was given none.
pub const DEFAULT_NAME: &str = "verifier";
/// MQTT over TLS (IANA secure-mqtt), on this machine: where devices connect.
pub const DEFAULT_BROKER: &str = "localhost:8883";
/// Where verifiers connect: `init` puts that two ports above the devices'.
const DEFAULT_ADDRESS: &str = "localhost:8885";
/// How long an epoch lasts, seconds.
const DEFAULT_EPOCH: u32 = 3600;
/// Beyond a day a device would be heard of too seldom to say anything of it.
const LONGEST_EPOCH: u32 = 24 * 3600;
/// Where the HTTP API listens.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8443";
/// File in the data folder that says where the HTTP API listens, for a port that the system chose.
const HTTP_ADDRESS: &str = "http-address";
/// MQTT over TLS (IANA secure-mqtt).
const DEFAULT_PORT: u16 = 8883;
/// Largest configuration: hand-written files have a few KiB.
const MAX_FILE: u64 = 1 << 20;
/// Least that may be allowed for one message: an enrolment with all its certificates takes 10 KiB.
const MIN_MESSAGE: usize = 16 * 1024;
/// Names that would collide with what else stands at that place in a topic or in the broker's list of users.
const RESERVED_NAMES: [&str; 4] = ["enrol", "enrolment-bridge", "epoch", "keys"];

/// Keys of the top level, of `[broker]` and of `[http]`.
const KEYS: &[&str] = &[
    "name",
    "data_dir",
    "key",
    "epoch_seconds",
    "ek_roots",
    "deny",
    "reference_values",
    "trust",
    "policy",
    "broker",
    "http",
];
const BROKER_KEYS: &[&str] = &[
    "address",
    "ca",
    "certificate",
    "key",
    "device_ca",
    "ca_key",
    "issued",
    "admit",
    "crl",
    "acl",
    "spawn",
    "mosquitto",
    "enrolment",
    "max_message_bytes",
];
const HTTP_KEYS: &[&str] = &["listen", "token_file", "url"];

/// What is wrong with the configuration. Exit code 2.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}; `verifier init DIR` makes one", file.display())]
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

/// What the user typed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    name: Option<String>,
    data_dir: Option<PathBuf>,
    key: Option<PathBuf>,
    epoch_seconds: Option<u32>,
    ek_roots: Option<PathBuf>,
    deny: Option<PathBuf>,
    reference_values: Option<PathBuf>,
    trust: Option<PathBuf>,
    policy: Option<PathBuf>,
    #[serde(default)]
    broker: FileBroker,
    #[serde(default)]
    http: FileHttp,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileBroker {
    address: Option<String>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    device_ca: Option<PathBuf>,
    ca_key: Option<PathBuf>,
    issued: Option<PathBuf>,
    admit: Option<Admit>,
    crl: Option<PathBuf>,
    acl: Option<PathBuf>,
    spawn: Option<bool>,
    mosquitto: Option<PathBuf>,
    enrolment: Option<PathBuf>,
    max_message_bytes: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHttp {
    listen: Option<String>,
    token_file: Option<PathBuf>,
    url: Option<String>,
}

/// What the program needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read from, where that was said.
    pub file: Option<PathBuf>,
    /// Name of this verifier in topics.
    pub name: Name,
    /// Folder of the store.
    pub data_dir: PathBuf,
    /// Signing key, PEM PKCS#8, P-256.
    pub key: PathBuf,
    /// How long an epoch lasts: each device attests once in it, seconds.
    pub epoch_seconds: u32,
    /// Folder of the CAs that vouch for endorsement keys.
    pub ek_roots: PathBuf,
    /// List of endorsement keys, CAs, makers and firmware that are refused.
    pub deny: PathBuf,
    /// Folder of signed releases.
    pub reference_values: PathBuf,
    /// Folder of files that say who may sign releases.
    pub trust: PathBuf,
    /// What this verifier asks for.
    pub policy: PathBuf,
    /// Where evidence comes from.
    pub broker: Broker,
    /// HTTP API.
    pub http: Http,
}

/// MQTT broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Host name or address, as its certificate must have it.
    pub host: String,
    /// TCP port of the listener for verifiers.
    pub port: u16,
    /// PEM certificate of the CA that the broker's certificate comes from.
    pub ca: PathBuf,
    /// This verifier's client certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// PEM certificate of the CA that devices' certificates come from.
    pub device_ca: PathBuf,
    /// Its private key. Without it certificates come from `issued`, or enrolment hands out none.
    pub ca_key: PathBuf,
    /// Folder that another CA puts devices' certificates into.
    pub issued: Option<PathBuf>,
    /// Folder for what that CA is asked to certify.
    pub requests: PathBuf,
    /// When a device is given its certificate.
    pub admit: Admit,
    /// List of devices' certificates that are revoked, PEM.
    pub crl: PathBuf,
    /// mosquitto's topic rules.
    pub acl: PathBuf,
    /// Whether `serve` starts and supervises the broker.
    pub spawn: bool,
    /// Configuration that the broker is started with.
    pub mosquitto: PathBuf,
    /// Configuration of the broker for who enrols.
    pub enrolment: PathBuf,
    /// Longest message in either direction, bytes.
    pub max_message_bytes: usize,
}

/// When a device is given its own certificate for the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admit {
    /// As soon as it has enrolled.
    #[default]
    Enrolment,
    /// Once an operator has approved it.
    Approval,
}

/// HTTP API: where it listens, and how commands find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Address and port; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// File with the token that callers must present.
    pub token_file: PathBuf,
    url: Option<String>,
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
        let named = file.map(Path::to_owned);
        let text = match file {
            Some(file) => read(file)?,
            None => match read(Path::new(DEFAULT_FILE)) {
                Err(ConfigError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    String::new()
                }
                read => read?,
            },
        };
        let file = file.unwrap_or(Path::new(DEFAULT_FILE));
        let mut table = parse(file, &text)?;
        for (name, value) in environment {
            override_key(&mut table, &name, &value)?;
        }
        // The file alone has passed this: only the environment can be wrong here.
        let typed = FileConfig::deserialize(table).map_err(|error| ConfigError::Syntax {
            place: "environment".to_owned(),
            why: error.message().to_owned(),
        })?;
        Ok(Self { file: named, ..Self::from_typed(typed, file.parent().unwrap_or(Path::new("")))? })
    }

    fn from_typed(typed: FileConfig, folder: &Path) -> Result<Self, ConfigError> {
        let path = |typed: Option<PathBuf>, default: &str| folder.join(typed.unwrap_or_else(|| PathBuf::from(default)));
        let name = typed.name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let data_dir = path(typed.data_dir, "data");
        Ok(Self {
            file: None,
            name: verifier_name(&name).map_err(|why| wrong("name", why))?,
            key: path(typed.key, "root-key.pem"),
            epoch_seconds: epoch_seconds(typed.epoch_seconds)?,
            ek_roots: path(typed.ek_roots, "ek_roots"),
            deny: path(typed.deny, "deny.toml"),
            reference_values: path(typed.reference_values, "reference_values"),
            trust: path(typed.trust, "trust"),
            policy: path(typed.policy, "policy.toml"),
            broker: Broker::from_typed(typed.broker, path, &data_dir)?,
            data_dir,
            http: Http::from_typed(typed.http, path)?,
        })
    }

    /// The store's file.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.data_dir.join("store.sqlite")
    }

    /// File that names this program to the broker; whoever runs on the data folder holds its lock.
    #[must_use]
    pub fn client_id_file(&self) -> PathBuf {
        self.data_dir.join("mqtt-client-id")
    }

    /// Says in the data folder where the HTTP API listens.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn publish_http_address(&self, address: SocketAddr) -> io::Result<()> {
        fs::write(self.data_dir.join(HTTP_ADDRESS), format!("{address}\n"))
    }

    /// Where commands find the HTTP API: `http.url`, else where it listens.
    ///
    /// # Errors
    /// Where the port is the system's choice, and no service has said which.
    pub fn url(&self) -> Result<String, ConfigError> {
        if let Some(url) = &self.http.url {
            return Ok(url.trim_end_matches('/').to_owned());
        }
        if self.http.listen.port() != 0 {
            return Ok(format!("http://{}", self.http.listen));
        }
        let file = self.data_dir.join(HTTP_ADDRESS);
        let text = fs::read_to_string(&file).map_err(|error| {
            wrong("http.listen", format!("port 0, and no running service has written {}: {error}", file.display()))
        })?;
        Ok(format!("http://{}", text.trim()))
    }
}

impl Broker {
    fn from_typed(
        typed: FileBroker,
        path: impl Fn(Option<PathBuf>, &str) -> PathBuf,
        data_dir: &Path,
    ) -> Result<Self, ConfigError> {
        let address = typed.address.unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
        let (host, port) = host_and_port(&address).map_err(|why| wrong("broker.address", why))?;
        let max_message_bytes = typed.max_message_bytes.unwrap_or(MAX_MESSAGE);
        if !(MIN_MESSAGE..=MAX_MESSAGE).contains(&max_message_bytes) {
            return Err(wrong("broker.max_message_bytes", format!("must be {MIN_MESSAGE} to {MAX_MESSAGE}")));
        }
        Ok(Self {
            host,
            port,
            ca: path(typed.ca, "broker/ca.pem"),
            certificate: path(typed.certificate, "broker/verifier.pem"),
            key: path(typed.key, "broker/verifier.key"),
            device_ca: path(typed.device_ca, "broker/devices-ca.pem"),
            ca_key: path(typed.ca_key, "broker/devices-ca.key"),
            issued: typed.issued.map(|folder| path(Some(folder), "")),
            requests: data_dir.join("requests"),
            admit: typed.admit.unwrap_or_default(),
            crl: path(typed.crl, "broker/devices.crl"),
            acl: path(typed.acl, "broker/acl"),
            spawn: typed.spawn.unwrap_or(false),
            mosquitto: path(typed.mosquitto, "broker/mosquitto.conf"),
            enrolment: path(typed.enrolment, "broker/enrolment.conf"),
            max_message_bytes,
        })
    }
}

impl Http {
    fn from_typed(typed: FileHttp, path: impl Fn(Option<PathBuf>, &str) -> PathBuf) -> Result<Self, ConfigError> {
        let listen = typed.listen.unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
        let listen = listen_address(&listen).map_err(|why| wrong("http.listen", why))?;
        if let Some(url) = typed.url.as_deref().filter(|url| !url.starts_with("http://")) {
            return Err(wrong("http.url", format!("`{url}` does not begin with http://")));
        }
        Ok(Self { listen, token_file: path(typed.token_file, "api-token"), url: typed.url })
    }
}

/// A verifier's name as it may stand in topics, in the broker's users and in certificates.
///
/// # Errors
/// What is wrong with it.
pub fn verifier_name(text: &str) -> Result<Name, String> {
    let name = Name::new(text)
        .ok_or_else(|| format!("`{text}` is not a name: 1 to 64 lower-case letters, digits, `-`, `_` and `.`"))?;
    let taken = RESERVED_NAMES.contains(&text) || text.parse::<evidence::claims::DeviceId>().is_ok();
    if taken { Err(format!("`{text}` means something else in topics; take another name")) } else { Ok(name) }
}

/// `HOST` or `HOST:PORT`.
///
/// # Errors
/// What is wrong with it.
pub fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let port_of = |port: &str| match port.parse() {
        Ok(0) | Err(_) => Err(format!("`{port}` is not a port")),
        Ok(port) => Ok(port),
    };
    if text.starts_with('[') || text.matches(':').count() > 1 {
        return Err(format!("`{text}`: the MQTT client takes no IPv6 addresses; give the host's name"));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, port_of(port)?),
        None => (text, DEFAULT_PORT),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if host.is_empty() || host.len() > 253 || !host.chars().all(legal) {
        return Err(format!("`{text}` is not HOST or HOST:PORT"));
    }
    Ok((host.to_owned(), port))
}

/// An address to listen on. Without TLS a token would cross the network in the clear.
///
/// # Errors
/// What is wrong with it.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| format!("`{text}` is not ADDRESS:PORT, such as {DEFAULT_LISTEN}"))?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!("`{text}` is not a loopback address: the API speaks plain HTTP, so put a TLS proxy before it"))
    }
}

fn epoch_seconds(typed: Option<u32>) -> Result<u32, ConfigError> {
    match typed.unwrap_or(DEFAULT_EPOCH) {
        seconds if (1..=LONGEST_EPOCH).contains(&seconds) => Ok(seconds),
        seconds => Err(wrong("epoch_seconds", format!("{seconds} is not 1 to {LONGEST_EPOCH}"))),
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
    let refuse = |key: &str, at: usize, known| unknown(place(file, text, at), key, known);
    check_keys(document.get_ref(), KEYS, refuse)?;
    for (table, known) in [("broker", BROKER_KEYS), ("http", HTTP_KEYS)] {
        if let Some(DeValue::Table(inner)) = document.get_ref().get(table).map(toml::Spanned::get_ref) {
            check_keys(inner, known, refuse)?;
        }
    }
    toml::from_str::<FileConfig>(text).map_err(|error| syntax(&error))?;
    toml::from_str(text).map_err(|error| syntax(&error))
}

/// Refuses keys that are not known.
fn check_keys(
    table: &DeTable<'_>,
    known: &'static [&'static str],
    refuse: impl Fn(&str, usize, &'static [&'static str]) -> ConfigError,
) -> Result<(), ConfigError> {
    match table.keys().find(|key| !known.contains(&key.get_ref().as_ref())) {
        Some(key) => Err(refuse(key.get_ref(), key.span().start, known)),
        None => Ok(()),
    }
}

fn unknown(place: String, key: &str, known: &'static [&'static str]) -> ConfigError {
    // Below 0.7 names have hardly a letter in common: no suggestion is better than a wrong one.
    let score = |name: &&str| (strsim::jaro_winkler(key, name) * 1000.0) as u32;
    let nearest = known.iter().copied().max_by_key(score).filter(|name| score(name) >= 700);
    ConfigError::UnknownKey { place, key: key.to_owned(), nearest }
}

/// `file:line:column`, counted from 1.
pub(crate) fn place(file: &Path, text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{}:{line}:{column}", file.display())
}

/// Puts one variable of the environment over the file's key.
fn override_key(table: &mut Table, name: &OsStr, value: &OsStr) -> Result<(), ConfigError> {
    let Some(path) = name.to_str().and_then(|name| name.strip_prefix(ENVIRONMENT)) else { return Ok(()) };
    let variable = format!("environment variable {ENVIRONMENT}{path}");
    let path = path.to_lowercase();
    let syntax = |why: &str| ConfigError::Syntax { place: variable.clone(), why: why.to_owned() };
    let value = value.to_str().ok_or_else(|| syntax("is not UTF-8"))?;
    let (outer, key) = path.split_once("__").map_or((None, path.as_str()), |(outer, key)| (Some(outer), key));
    let (table, known) = match outer {
        None => (table, KEYS),
        Some(outer @ ("broker" | "http")) => {
            let inner = table.entry(outer).or_insert_with(|| Value::Table(Table::new()));
            let inner = inner.as_table_mut().ok_or_else(|| syntax("that key is not a table"))?;
            (inner, if outer == "broker" { BROKER_KEYS } else { HTTP_KEYS })
        }
        Some(outer) if KEYS.contains(&outer) => return Err(syntax("this key has no keys of its own")),
        Some(outer) => return Err(unknown(variable, outer, KEYS)),
    };
    if !known.contains(&key) {
        return Err(unknown(variable, key, known));
    }
    let value = match key {
        "spawn" => Value::Boolean(value.parse().map_err(|_| syntax("is neither `true` nor `false`"))?),
        "max_message_bytes" | "epoch_seconds" => {
            Value::Integer(value.parse().map_err(|_| syntax("is not a whole number"))?)
        }
        _ => Value::String(value.to_owned()),
    };
    table.insert(key.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("verifier.toml");
        fs::write(&file, text).unwrap();
        let environment = environment.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
        Config::load(Some(&file), environment)
    }

    fn said(text: &str, environment: &[(&str, &str)]) -> String {
        load(text, environment).unwrap_err().to_string()
    }

    #[test]
    fn nothing_typed_means_the_defaults_beside_the_file() {
        let config = load("", &[]).unwrap();
        assert_eq!(
            (config.name.as_str(), config.broker.host.as_str(), config.broker.port),
            ("verifier", "localhost", 8885)
        );
        assert!(config.data_dir.is_absolute() && config.data_dir.ends_with("data"));
        assert_eq!(config.url().unwrap(), "http://127.0.0.1:8443");
        assert!(!config.broker.spawn);
    }

    #[test]
    fn a_typo_is_named_with_its_place_and_the_nearest_key() {
        let message = said("name = 'v'\ndata_dri = '/s'\n", &[]);
        assert!(
            message.contains("verifier.toml:2:1: there is no key `data_dri`; did you mean `data_dir`?"),
            "{message}"
        );
        let message = said("[broker]\n  adress = 'a'\n", &[]);
        assert!(message.contains(":2:3: there is no key `adress`; did you mean `address`?"), "{message}");
        let message = said("[http]\ntokenfile = 'a'\n", &[]);
        assert!(message.contains(":2:1:") && message.contains("`token_file`"), "{message}");
        let message = said("", &[("COUNTERSIGN_VERIFIER__BROKER__SPAWM", "true")]);
        assert!(message.contains("COUNTERSIGN_VERIFIER__BROKER__SPAWM") && message.contains("`spawn`"), "{message}");
        assert!(!said("qqqq = 1", &[]).contains("did you mean"));
    }

    #[test]
    fn wrong_types_and_bad_toml_are_named_with_line_and_column() {
        assert!(said("[broker]\nspawn = 'yes'\n", &[]).contains("verifier.toml:2:9: "));
        assert!(said("name = \n", &[]).contains("verifier.toml:1:"));
        assert!(said("", &[("COUNTERSIGN_VERIFIER__BROKER__SPAWN", "yes")]).contains("neither `true` nor `false`"));
    }

    #[test]
    fn the_environment_goes_over_the_file() {
        let config = load(
            "name = 'file'\n",
            &[
                ("COUNTERSIGN_VERIFIER__NAME", "env"),
                ("COUNTERSIGN_VERIFIER__BROKER__ADDRESS", "h:1"),
                ("COUNTERSIGN_VERIFIER__BROKER__SPAWN", "true"),
                ("COUNTERSIGN_VERIFIER__HTTP__URL", "http://localhost:1/"),
                ("HOME", "/root"),
            ],
        )
        .unwrap();
        assert_eq!((config.name.as_str(), config.broker.host.as_str(), config.broker.port), ("env", "h", 1));
        assert_eq!(config.url().unwrap(), "http://localhost:1");
        assert!(config.broker.spawn);
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (text, key) in [
            ("name = 'A'", "name"),
            ("epoch_seconds = 0", "epoch_seconds"),
            ("epoch_seconds = 86401", "epoch_seconds"),
            ("name = 'enrol'", "name"),
            ("[broker]\naddress = 'h:0'", "broker.address"),
            ("[broker]\naddress = 'mqtts://h'", "broker.address"),
            ("[broker]\naddress = '[::1]:8883'", "broker.address"),
            ("[broker]\nmax_message_bytes = 1", "broker.max_message_bytes"),
            ("[http]\nlisten = '0.0.0.0:80'", "http.listen"),
            ("[http]\nurl = 'ftp://h'", "http.url"),
        ] {
            assert!(said(text, &[]).contains(key), "{text}");
        }
    }

    #[test]
    fn a_port_that_the_system_chose_is_read_from_the_data_folder() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("data_dir = '{}'\n[http]\nlisten = '127.0.0.1:0'\n", dir.path().display());
        let config = load(&text, &[]).unwrap();
        assert!(config.url().is_err());
        config.publish_http_address("127.0.0.1:4711".parse().unwrap()).unwrap();
        assert_eq!(config.url().unwrap(), "http://127.0.0.1:4711");
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let error = Config::load(Some(Path::new("/nonexistent.toml")), []).unwrap_err();
        assert!(error.to_string().contains("/nonexistent.toml"));
    }
}
