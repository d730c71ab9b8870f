//! The command line, as it is typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use reference_values::Role;

use crate::time::{Time, parse_time};

/// Builds, signs, checks and shows releases: what a product runs when it runs as its makers meant it to.
#[derive(Parser)]
#[command(name = "reference-values", version, about, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Say more on stderr; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say only errors on stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  reference-values keygen --out maker.pem
  reference-values build --rootfs ./root --boot-log boot.bin --product acme/gateway --release 4.2.0 -o gateway.corim
  reference-values sign gateway.corim --key maker.pem --role manufacturer -o gateway.signed
  reference-values check gateway.signed --trust ./trust

Exit codes: 0 done; 1 the operation failed; 2 bad usage or configuration; 6 malformed input, or a signature that does
not hold or is nobody's who is trusted.";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Measure a release: every executable, library, script and kernel module, and the boot
    Build(Build),
    /// Make a key to sign releases with
    Keygen(Keygen),
    /// Sign a release; a second call adds a signature beside the first
    Sign(Sign),
    /// Verify every signature of a release and name who vouches for it
    Check(Check),
    /// Print what a release says, without verifying it
    Show(Show),
    /// Compare two releases
    Diff(Diff),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
#[command(after_help = "\
Example:
  reference-values build --rootfs ./root --boot-log boot.bin --product acme/gateway --release 4.2.0 -o gateway.corim

Boot logs come from /sys/kernel/security/tpm0/binary_bios_measurements of a device that booted as it should; give one
for each variant of the hardware. Files count by their content (ELF, interpreter line) or executable bit; links are not
followed and other file systems not entered.
The same input gives the same bytes where --sequence or SOURCE_DATE_EPOCH is given.")]
pub(crate) struct Build {
    /// Folder that holds the root file system
    #[arg(long, value_name = "DIR", required_unless_present = "boot_log")]
    pub(crate) rootfs: Option<PathBuf>,
    /// TCG event log of a good boot; may be given several times
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) boot_log: Vec<PathBuf>,
    /// Product: MODEL or VENDOR/MODEL
    #[arg(long)]
    pub(crate) product: String,
    /// Name of the release within the product
    #[arg(long)]
    pub(crate) release: String,
    /// From when on it may be used: 2026-11-24 or 2026-11-24T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) valid_from: Option<Time>,
    /// From when on it is stale
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) retire_at: Option<Time>,
    /// Number that grows with every build of this product; default: SOURCE_DATE_EPOCH, else the present time
    #[arg(long, value_name = "N")]
    pub(crate) sequence: Option<u64>,
    /// Where to write the unsigned release
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Args)]
#[command(after_help = "\
Example:
  reference-values keygen --out maker.pem

writes the private key to maker.pem (readable by its owner only) and the public key to maker.pub.pem, for trust files.")]
pub(crate) struct Keygen {
    /// Where to write the private key, PKCS #8 in PEM
    #[arg(long, value_name = "KEY")]
    pub(crate) out: PathBuf,
}

#[derive(Args)]
#[command(after_help = "\
Example:
  reference-values sign gateway.corim --key maker.pem --role manufacturer -o gateway.signed
  reference-values sign gateway.signed --key importer.pem --role importer -o gateway.signed")]
pub(crate) struct Sign {
    /// The release, signed or not
    pub(crate) file: PathBuf,
    /// Private key, ECDSA P-256, PKCS #8 in PEM
    #[arg(long)]
    pub(crate) key: PathBuf,
    /// Your part in the supply chain: manufacturer, importer, distributor or operator
    #[arg(long)]
    pub(crate) role: Role,
    /// Where to write the signed release; may be FILE itself
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Args)]
#[command(after_help = "\
Example:
  reference-values check gateway.signed --trust ./trust

A trust file:
  [[signer]]
  name = \"Acme Gateways\"
  role = \"manufacturer\"
  products = [\"acme/*\"]
  not-after = 2030-01-01T00:00:00Z
  key = \"\"\"
  -----BEGIN PUBLIC KEY-----
  …
  -----END PUBLIC KEY-----
  \"\"\"")]
pub(crate) struct Check {
    /// The signed release
    pub(crate) file: PathBuf,
    /// Folder of trust files (*.toml), or one such file
    #[arg(long, value_name = "DIR")]
    pub(crate) trust: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(after_help = "Example:\n  reference-values show gateway.signed --json")]
pub(crate) struct Show {
    /// The release, signed or not
    pub(crate) file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(after_help = "Example:\n  reference-values diff gateway-4.1.0.signed gateway-4.2.0.signed")]
pub(crate) struct Diff {
    /// The earlier release
    pub(crate) from: PathBuf,
    /// The later release
    pub(crate) to: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
