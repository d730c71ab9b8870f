//! Why a command ends without its result, and with which exit code.

use std::{fmt, path::Path, process::ExitCode};

/// A failure with its message; the message names what, where, and what to do.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Disk, permissions, the system: exit 1.
    Operation(String),
    /// Arguments or trust files: exit 2.
    Usage(String),
    /// Malformed input, or a signature that does not count: exit 6.
    Input(String),
}

impl Failure {
    /// An operation on a file that the system refused.
    pub(crate) fn operation(doing: &str, path: &Path, error: impl fmt::Display) -> Self {
        Self::Operation(format!("cannot {doing} {}: {error}", path.display()))
    }

    /// A file whose content is not right.
    pub(crate) fn input(path: &Path, error: impl fmt::Display) -> Self {
        Self::Input(format!("{}: {error}", path.display()))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Operation(_) => 1,
            Self::Usage(_) => 2,
            Self::Input(_) => 6,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Operation(message) | Self::Usage(message) | Self::Input(message)) = self;
        f.write_str(message)
    }
}
