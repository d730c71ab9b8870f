//! The parts of a supply chain that can vouch for a release.

use std::{fmt, str::FromStr};

/// A signer's part in the supply chain (the economic operators of Regulation (EU) 2024/2847, Article 3, and whoever
/// runs the devices).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Makes the product or has it made.
    Manufacturer,
    /// Places it on the market from outside.
    Importer,
    /// Makes it available further down.
    Distributor,
    /// Runs the devices.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Manufacturer, Self::Importer, Self::Distributor, Self::Operator];

    /// Its name, in files and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manufacturer => "manufacturer",
            Self::Importer => "importer",
            Self::Distributor => "distributor",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| {
            format!("{name:?} is no role; one of manufacturer, importer, distributor, operator is expected")
        })
    }
}
