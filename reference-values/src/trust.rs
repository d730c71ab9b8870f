//! Whom the verifier believes, for which products, in which role: the verifier's own word, never the file's.

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    error::TrustError,
    key::{KeyId, PublicKey},
    limits::MAX_TRUSTED,
    role::Role,
};

/// One signer, as the trust file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedSigner {
    /// Its name, for people.
    pub name: String,
    /// Its part in the supply chain.
    pub role: Role,
    /// Its key.
    pub key: PublicKey,
    /// Products it may speak for: names, or beginnings of names that end in `*`.
    pub products: Vec<String>,
    /// When the trust ends, seconds since the Unix epoch.
    pub not_after: Option<u64>,
}

impl TrustedSigner {
    /// Whether it may speak for `product`.
    #[must_use]
    pub fn speaks_for(&self, product: &str) -> bool {
        self.products.iter().any(|pattern| covers(pattern, product))
    }

    /// Whether it may speak for all products that `pattern` stands for: a name, or the beginning of names with `*`.
    #[must_use]
    pub fn speaks_for_all(&self, pattern: &str) -> bool {
        // What begins like the pattern, up to its asterisk, begins like every product that it stands for.
        self.speaks_for(pattern)
    }
}

/// Whether `pattern` (a name, or the beginning of names with `*` at its end) stands for `product`; where that is a pattern
/// itself, for all that it stands for.
pub(crate) fn covers(pattern: &str, product: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => product.starts_with(beginning),
        None => product == pattern,
    }
}

/// All trusted signers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust(Vec<TrustedSigner>);

impl Trust {
    /// Reads one trust file:
    ///
    /// ```toml
    /// [[signer]]
    /// name = "Acme Gateways"
    /// role = "manufacturer"
    /// products = ["acme/*"]
    /// not-after = 2030-01-01T00:00:00Z   # optional
    /// key = """
    /// -----BEGIN PUBLIC KEY-----
    /// …
    /// -----END PUBLIC KEY-----
    /// """
    /// ```
    ///
    /// # Errors
    /// [`TrustError`] naming the line, or the signer and what is expected of it.
    pub fn from_toml(text: &str) -> Result<Self, TrustError> {
        let file: File = toml::from_str(text).map_err(|error| TrustError::Toml(in_one_line(&error)))?;
        let mut trust = Self::default();
        for entry in file.signer {
            trust.add(entry.check()?)?;
        }
        Ok(trust)
    }

    /// Adds the signers of another file.
    ///
    /// # Errors
    /// [`TrustError`] where a key stands in both.
    pub fn extend(&mut self, other: Self) -> Result<(), TrustError> {
        other.0.into_iter().try_for_each(|signer| self.add(signer))
    }

    /// Adds one signer.
    ///
    /// # Errors
    /// [`TrustError`] where its key is known already: one key has one name and one role.
    pub fn add(&mut self, signer: TrustedSigner) -> Result<(), TrustError> {
        if let Some(known) = self.find(signer.key.id()) {
            let why = format!("its key is {:?}'s already; one key has one role", known.name);
            return Err(TrustError::Signer { name: signer.name, why });
        }
        if self.0.len() >= MAX_TRUSTED {
            return Err(TrustError::TooMany(MAX_TRUSTED));
        }
        self.0.push(signer);
        Ok(())
    }

    /// The signer with this key.
    #[must_use]
    pub fn find(&self, key: KeyId) -> Option<&TrustedSigner> {
        self.0.iter().find(|signer| signer.key.id() == key)
    }

    /// All of them, in the order of the files.
    #[must_use]
    pub fn signers(&self) -> &[TrustedSigner] {
        &self.0
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    signer: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    name: String,
    role: String,
    key: String,
    products: Vec<String>,
    not_after: Option<toml::value::Datetime>,
}

impl Entry {
    fn check(self) -> Result<TrustedSigner, TrustError> {
        let name = self.name;
        let refuse = |why: String| TrustError::Signer { name: name.clone(), why };
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(refuse("a name of printable characters is expected".into()));
        }
        if self.products.is_empty() {
            return Err(refuse("`products` is empty; \"*\" means every product".into()));
        }
        if let Some(bad) =
            self.products.iter().find(|pattern| pattern.strip_suffix('*').unwrap_or(pattern).contains('*'))
        {
            return Err(refuse(format!("product {bad:?}: '*' stands only at the end")));
        }
        let role = self.role.parse().map_err(refuse)?;
        let key = PublicKey::from_pem(&self.key).map_err(|error| refuse(format!("key: {error}")))?;
        let not_after = self.not_after.map(unix_seconds).transpose().map_err(refuse)?;
        Ok(TrustedSigner { name, role, key, products: self.products, not_after })
    }
}

/// Place and fault in one line: logs and tables have no room for the excerpt that is drawn between them.
fn in_one_line(error: &toml::de::Error) -> String {
    let drawn = error.to_string();
    format!("{}: {}", drawn.lines().next().unwrap_or_default(), error.message())
}

fn unix_seconds(time: toml::value::Datetime) -> Result<u64, String> {
    let text = time.to_string();
    text.parse::<Timestamp>()
        .ok()
        .and_then(|time| u64::try_from(time.as_second()).ok())
        .ok_or_else(|| format!("not-after {text}: a time with its offset is expected, as 2030-01-01T00:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::Trust;
    use crate::{error::TrustError, key::tests::new_key, role::Role};

    fn file(key: &str, more: &str) -> String {
        format!("[[signer]]\nname = \"Acme\"\nrole = \"manufacturer\"\nkey = \"\"\"{key}\"\"\"\n{more}\n")
    }

    #[test]
    fn a_complete_entry_is_read() {
        let key = new_key();
        let text = file(&key.public().to_pem(), "products = [\"acme/*\", \"one\"]\nnot-after = 2030-01-01T00:00:00Z");
        let trust = Trust::from_toml(&text).unwrap();
        let signer = trust.find(key.public().id()).unwrap();
        assert_eq!((signer.role, signer.not_after), (Role::Manufacturer, Some(1_893_456_000)));
        assert!(signer.speaks_for("acme/gw") && signer.speaks_for("one"));
        assert!(!signer.speaks_for("one2") && !signer.speaks_for("other/acme/gw"));
        for all in ["acme/*", "acme/gw*", "acme/gw", "one"] {
            assert!(signer.speaks_for_all(all), "{all}");
        }
        for more in ["*", "a*", "acme*", "one*", "other/*"] {
            assert!(!signer.speaks_for_all(more), "{more}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let pem = new_key().public().to_pem();
        for (more, word) in [
            ("", "products"),
            ("products = []", "every product"),
            ("products = [\"a*b\"]", "only at the end"),
            ("products = [\"**\"]", "only at the end"),
            ("products = [\"acme/**\"]", "only at the end"),
            ("products = [\"a\"]\nnot_after = 2030-01-01T00:00:00Z", "not_after"),
            ("products = [\"a\"]\nnot-after = 2030-01-01", "offset"),
        ] {
            let error = Trust::from_toml(&file(&pem, more)).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{more}: {error}");
        }
        assert!(Trust::from_toml(&file("no key", "products = [\"a\"]")).is_err());
    }

    #[test]
    fn one_key_cannot_have_two_roles() {
        let text = file(&new_key().public().to_pem(), "products = [\"*\"]");
        let twice = format!("{text}{}", text.replace("manufacturer", "importer"));
        assert!(matches!(Trust::from_toml(&twice), Err(TrustError::Signer { .. })));
        let mut trust = Trust::from_toml(&text).unwrap();
        assert!(trust.extend(Trust::from_toml(&text).unwrap()).is_err());
    }
}
