//! The tokens that callers present. They are compared in constant time; one is shown once, to whoever had it made.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use evidence::pcr::sha256;
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Shorter ones could be guessed.
const MIN_LENGTH: usize = 32;
/// Longer ones are something else.
const MAX_LENGTH: usize = 256;

/// Why a token file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("cannot read the API token {}: {source}; run as the user that runs the verifier, or name another with token_file", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds no token.
    #[error("{} holds no API token: one line of {MIN_LENGTH} to {MAX_LENGTH} printable characters without spaces is expected", file.display())]
    NoToken {
        /// Which file.
        file: PathBuf,
    },
}

/// A bearer token.
pub struct Token(Zeroizing<String>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// `None` where this is too short, too long or not printable.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = (MIN_LENGTH..=MAX_LENGTH).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic());
        fits.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// A new one: 32 random bytes in hex. `None` where the system has no random numbers.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(&mut *bytes).ok()?;
        Self::new(&Zeroizing::new(HEXLOWER.encode(&*bytes)))
    }

    /// What the store knows a token by; `None` for what could be none.
    #[must_use]
    pub fn digest_of(presented: &[u8]) -> Option<[u8; 32]> {
        (MIN_LENGTH..=MAX_LENGTH).contains(&presented.len()).then(|| sha256(presented))
    }

    /// What the store knows it by.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }

    /// Reads the first and only line of a file.
    ///
    /// # Errors
    /// [`TokenError`] names the file.
    pub fn read(file: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Unreadable { file: file.to_owned(), source };
        let mut text = Zeroizing::new(String::new());
        let bytes = fs::File::open(file).map_err(unreadable)?;
        bytes.take(2 * MAX_LENGTH as u64).read_to_string(&mut text).map_err(unreadable)?;
        Self::new(text.trim_end()).ok_or_else(|| TokenError::NoToken { file: file.to_owned() })
    }

    /// Whether `presented` is this token, in time that depends on lengths alone.
    #[must_use]
    pub fn is(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }

    /// For the header of a request.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}
