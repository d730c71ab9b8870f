//! What a signed file may be: a release, a list of endorsed TPMs, or a notice that takes something back. All three are
//! one CoRIM each, told apart by its profile, so that none can be passed off as another.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{corim, error::Unreadable, release::Release};
pub use crate::{
    endorsements::{Endorsed, Endorsements},
    notice::{KnownBad, Minimum, Notice, Revoked},
};

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What a product runs.
    Release,
    /// Which TPMs sit in a product.
    Endorsements,
    /// What a product may no longer run.
    Notice,
}

impl Kind {
    /// Name in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Endorsements => "endorsements",
            Self::Notice => "notice",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Documents that replace each other: within a series the highest sequence counts, and it never goes back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Series {
    /// The product, or the pattern of products that a notice concerns.
    pub product: String,
    /// Which kind.
    pub kind: Kind,
    /// Name of the list or notice; empty for releases, which have one order per product.
    pub name: String,
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Release => write!(f, "releases of {}", self.product),
            kind => write!(f, "{kind} {} of {}", self.name, self.product),
        }
    }
}

/// What one file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// What a product runs.
    Release(Release),
    /// Which TPMs sit in a product.
    Endorsements(Endorsements),
    /// What a product may no longer run.
    Notice(Notice),
}

impl Document {
    /// Reads an unsigned CoRIM, from its tag 501 to its end.
    ///
    /// # Errors
    /// [`Unreadable`] with what and where.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        corim::decode(bytes)
    }

    /// Writes it as an unsigned CoRIM; the same document always gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Release(release) => release.encode(),
            Self::Endorsements(endorsements) => endorsements.encode(),
            Self::Notice(notice) => notice.encode(),
        }
    }

    /// Which kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Release(_) => Kind::Release,
            Self::Endorsements(_) => Kind::Endorsements,
            Self::Notice(_) => Kind::Notice,
        }
    }

    /// The product; of a notice, a name or the beginning of names with `*` at its end.
    #[must_use]
    pub fn product(&self) -> &str {
        match self {
            Self::Release(release) => release.product(),
            Self::Endorsements(endorsements) => endorsements.product(),
            Self::Notice(notice) => notice.product(),
        }
    }

    /// Name of the release, the list or the notice.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Release(release) => release.name(),
            Self::Endorsements(endorsements) => endorsements.name(),
            Self::Notice(notice) => notice.name(),
        }
    }

    /// Order within its series.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        match self {
            Self::Release(release) => release.sequence(),
            Self::Endorsements(endorsements) => endorsements.sequence(),
            Self::Notice(notice) => notice.sequence(),
        }
    }

    /// When it ends to say anything, seconds since the Unix epoch. A release that has retired still says what it is.
    #[must_use]
    pub const fn expires(&self) -> Option<u64> {
        match self {
            Self::Release(_) => None,
            Self::Endorsements(endorsements) => endorsements.expires(),
            Self::Notice(notice) => notice.expires(),
        }
    }

    /// Which documents replace it.
    #[must_use]
    pub fn series(&self) -> Series {
        let kind = self.kind();
        let name = if kind == Kind::Release { String::new() } else { self.name().to_owned() };
        Series { product: self.product().to_owned(), kind, name }
    }
}

impl From<Release> for Document {
    fn from(release: Release) -> Self {
        Self::Release(release)
    }
}

impl From<Endorsements> for Document {
    fn from(endorsements: Endorsements) -> Self {
        Self::Endorsements(endorsements)
    }
}

impl From<Notice> for Document {
    fn from(notice: Notice) -> Self {
        Self::Notice(notice)
    }
}
