//! The four verdicts, and how claims and causes add up to one.

use evidence::result::Tier;
use serde::{Deserialize, Serialize};

/// What a verifier says of a device, from best to worst of what it can rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything that policy asks for was shown, recently enough, and matches signed reference values.
    Affirmed,
    /// Nothing contradicts, but something is weaker than policy's ideal.
    Warning,
    /// No basis: never seen, expired, incomplete, no reference values.
    Unknown,
    /// Something contradicts.
    Contraindicated,
}

impl Verdict {
    /// In order of severity.
    pub const ALL: [Self; 4] = [Self::Affirmed, Self::Warning, Self::Unknown, Self::Contraindicated];

    /// Name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Affirmed => "affirmed",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Contraindicated => "contraindicated",
        }
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }

    /// Exit code of programs that are asked for a verdict.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Affirmed => 0,
            Self::Warning => 3,
            Self::Contraindicated => 4,
            Self::Unknown => 5,
        }
    }

    /// `ear.status`.
    #[must_use]
    pub const fn tier(self) -> Tier {
        match self {
            Self::Affirmed => Tier::Affirming,
            Self::Warning => Tier::Warning,
            Self::Unknown => Tier::None,
            Self::Contraindicated => Tier::Contraindicated,
        }
    }

    /// The verdict that an `ear.status` stands for.
    #[must_use]
    pub const fn from_tier(tier: Tier) -> Self {
        match tier {
            Tier::Affirming => Self::Affirmed,
            Tier::Warning => Self::Warning,
            Tier::None => Self::Unknown,
            Tier::Contraindicated => Self::Contraindicated,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
