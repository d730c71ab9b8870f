//! The command line, as it is typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use reference_values::{Role, boot_rules::AttesterIn};

use crate::{
    sources::Algorithm,
    time::{Span, Time, parse_span, parse_time},
};

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
  reference-values build --rootfs ./root --boot-log boot.bin --uki gateway.efi --product acme/gateway --release 4.2.0 \\
    -o gateway.corim
  reference-values sign gateway.corim --key maker.pem --role manufacturer -o gateway.signed
  reference-values check gateway.signed --trust ./trust

Exit codes: 0 done; 1 the operation failed; 2 bad usage or configuration; 6 malformed input, or a signature that does
not hold or is nobody's who is trusted.";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Measure a release: every executable, library, script and kernel module, and the boot
    Build(Box<Build>),
    /// Make a release from what a shop already has: Keylime policies, IMA lists, SBOMs, Debian packages, sha256sum files
    Import(Box<Import>),
    /// Make a key to sign releases with
    Keygen(Keygen),
    /// List the TPMs that were built into a product, from their endorsement key certificates
    Endorse(Endorse),
    /// Take back: revoke releases, name files that are known to be bad, set the lowest release that may run
    Notice(Notice),
    /// Sign a release, list or notice; a second call adds a signature beside the first
    Sign(Sign),
    /// Verify every signature of a file and name who vouches for it
    Check(Check),
    /// Print what a file says, without verifying it
    Show(Show),
    /// Compare two releases, lists or notices
    Diff(Diff),
    /// Hand a signed file to a running verifier
    Publish(Publish),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  reference-values build --rootfs ./root --boot-log boot.bin --uki gateway.efi --kernel-config config-6.1 \\
    --ima-policy ./root/etc/ima/ima-policy --attester-in initrd --product acme/gateway --release 4.2.0 -o gateway.corim
  reference-values build --rootfs ./root --rootfs ./initrd --boot-log a.bin b.bin \\
    --cmdline 'root=/dev/sda2 ro quiet' --cmdline 'root=/dev/sd* ro quiet' --product acme/gateway --release 4.2.0 -o g.corim
  reference-values build --rootfs root.squashfs --rootfs driver.deb --digests sha1,sha512 --update-window 14d \\
    --product acme/gateway --release 4.2.0 -o gateway.corim
  reference-values build --rootfs ./root --boot-pcrs pcrs.txt --product acme/gateway --release 4.2.0 -o gateway.corim

Boot logs come from /sys/kernel/security/tpm0/binary_bios_measurements of devices that booted as they should. Several
logs become rules that all of them meet: give one of each variant of hardware and firmware, and of a second boot of one
device. What the rules leave open is printed. Most logs hold only a digest of the kernel's command line: give the text,
as /proc/cmdline had it, or the unified kernel image that has it.
What --rootfs is, its content tells. Files count by their content (ELF, interpreter line, compressed kernel module, kernel,
initrd, EFI program) or executable bit, and /etc/ld.so.cache and /etc/ld.so.preload; archives within are not entered, links
not followed, devices and other file systems left out. Of a .deb, the scripts count that dpkg keeps. The same input gives the
same bytes where --sequence or SOURCE_DATE_EPOCH is given.")]
pub(crate) struct Build {
    /// Root file system, unpacked initrd or package: a folder, a tar (also compressed), an ext4 or squashfs image, or a
    /// .deb; may be given several times
    #[arg(long, value_name = "ROOT", required_unless_present_any = ["boot_log", "boot_pcrs"])]
    pub(crate) rootfs: Vec<PathBuf>,
    /// Digests beside SHA-256, for systems that know files by them
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) digests: Vec<Algorithm>,
    /// TCG event logs of good boots, to make boot rules from
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) boot_log: Vec<PathBuf>,
    /// Exact PCR values of good boots, for devices whose log cannot be read: event logs, or files with what
    /// `tpm2_pcrread sha256` printed
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) boot_pcrs: Vec<PathBuf>,
    /// Command line that the kernel may get; * stands for anything without white space and quotation marks, \* for
    /// itself; may be given several times
    #[arg(long, value_name = "PATTERN", requires = "boot_log", allow_hyphen_values = true)]
    pub(crate) cmdline: Vec<String>,
    /// Unified kernel image that booted: its command line is allowed, and its kernel's release known
    #[arg(long, value_name = "FILE", requires = "boot_log")]
    pub(crate) uki: Vec<PathBuf>,
    /// Configuration that the kernel was built with, as /boot/config-*: tells whether it takes unsigned modules, locks
    /// itself down, has kexec
    #[arg(long, value_name = "FILE", requires = "boot_log")]
    pub(crate) kernel_config: Option<PathBuf>,
    /// What `uname -r` says of the kernel, where no image given with --uki tells
    #[arg(long, value_name = "TEXT", requires = "boot_log")]
    pub(crate) kernel_release: Option<String>,
    /// IMA policy that devices load; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) ima_policy: Vec<PathBuf>,
    /// What binds the attester's own file to the boot: the initrd that it is in, or dm-verity over the file system that
    /// it is on
    #[arg(long, value_name = "PLACE", requires = "boot_log")]
    pub(crate) attester_in: Option<AttesterPlace>,
    #[command(flatten)]
    pub(crate) of: OfRelease,
}

/// What a release is, whatever is in it.
#[derive(Args)]
pub(crate) struct OfRelease {
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
    /// How long devices may run files of this release and of the one before: 14d or 36h; default: the verifier's policy
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    pub(crate) update_window: Option<Span>,
    /// Number that grows with every build of this product; default: SOURCE_DATE_EPOCH, else the present time
    #[arg(long, value_name = "N")]
    pub(crate) sequence: Option<u64>,
    /// Where to write the unsigned release
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// What an edition of a list or a notice is, whatever is in it.
#[derive(Args)]
pub(crate) struct OfEdition {
    /// Name among the lists or notices of the product: a plant, a line, a team
    #[arg(long)]
    pub(crate) name: String,
    /// When it ends to count
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) expires: Option<Time>,
    /// Number that grows with every edition of this name; default: SOURCE_DATE_EPOCH, else the present time
    #[arg(long, value_name = "N")]
    pub(crate) sequence: Option<u64>,
    /// Where to write it, unsigned
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// [`AttesterIn`], as it is typed.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum AttesterPlace {
    /// In the initrd, which the log measures
    Initrd,
    /// On a file system whose root hash is on every command line
    Verity,
}

impl From<AttesterPlace> for AttesterIn {
    fn from(place: AttesterPlace) -> Self {
        match place {
            AttesterPlace::Initrd => Self::Initrd,
            AttesterPlace::Verity => Self::Verity,
        }
    }
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
  reference-values sign gateway.signed --key importer.pem --role importer -o gateway.signed
  reference-values sign gateway.corim --pkcs11 'pkcs11:token=releases;object=maker?pin-source=/run/pin' \\
    --pkcs11-module /usr/lib/softhsm/libsofthsm2.so --role manufacturer -o gateway.signed

With --pkcs11 the key stays in its token (RFC 7512): `token` or `serial`, `object` or `id` name it, `pin-source` the file
that its PIN stands in, `module-path` the module.")]
pub(crate) struct Sign {
    /// The release, list or notice, signed or not
    pub(crate) file: PathBuf,
    /// Private key, ECDSA P-256, PKCS #8 in PEM
    #[arg(long, required_unless_present = "pkcs11", conflicts_with = "pkcs11")]
    pub(crate) key: Option<PathBuf>,
    /// Private key in a token, ECDSA P-256
    #[arg(long, value_name = "URI")]
    pub(crate) pkcs11: Option<String>,
    /// The token's PKCS #11 module, where the URI has no module-path
    #[arg(long, value_name = "FILE", requires = "pkcs11")]
    pub(crate) pkcs11_module: Option<PathBuf>,
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

#[derive(Args)]
#[command(after_help = "\
Examples:
  reference-values endorse --product acme/gateway --name line-1-2026-w48 ./certificates -o line-1.corim
  reference-values endorse --product acme/gateway --name line-1-2026-w48 --serials serials.csv ./certificates -o line-1.corim

A file holds one certificate (DER), or one or several (PEM); of a folder, every .crt, .cer, .der and .pem in it counts.
The serial of a device is the name of the file without its ending, up to the first '~' (SN1.crt, SN1~ecc.crt), or stands
in a table of lines `FILE,SERIAL`.")]
pub(crate) struct Endorse {
    /// Certificates of endorsement keys, or folders of them
    #[arg(required = true)]
    pub(crate) certificates: Vec<PathBuf>,
    /// Product that the TPMs sit in: MODEL or VENDOR/MODEL
    #[arg(long)]
    pub(crate) product: String,
    /// Table of serials, lines of FILE,SERIAL
    #[arg(long, value_name = "CSV", conflicts_with = "no_serials")]
    pub(crate) serials: Option<PathBuf>,
    /// List keys without serials
    #[arg(long)]
    pub(crate) no_serials: bool,
    #[command(flatten)]
    pub(crate) of: OfEdition,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  reference-values notice --product acme/gateway --name psirt --revoke '4.1.0=remote code execution' \\
    --advisory 4.1.0=CVE-2026-1234 --minimum 4.2.0=1796000000 -o notice.corim
  reference-values notice --product 'acme/*' --name malware --known-bad bad.csv --expires 2027-06-30 -o notice.corim

bad.csv has lines of SHA256,ADVISORY,WHY. A notice replaces the one of its name with a lower sequence: what the newer does
not say is no longer taken back. A verifier that has used a notice misses it when the file is gone: to take back nothing
any more, sign one that says nothing.")]
pub(crate) struct Notice {
    /// Product, or beginning of products' names with * at its end
    #[arg(long)]
    pub(crate) product: String,
    /// Release that may not run any more, and why; may be given several times
    #[arg(long, value_name = "RELEASE=WHY")]
    pub(crate) revoke: Vec<String>,
    /// Advisory of a revoked release: a CVE, a number, an address
    #[arg(long, value_name = "RELEASE=ADVISORY")]
    pub(crate) advisory: Vec<String>,
    /// Lowest release that may run, and its sequence
    #[arg(long, value_name = "RELEASE=SEQUENCE")]
    pub(crate) minimum: Option<String>,
    /// Table of files that may run nowhere, lines of SHA256,ADVISORY,WHY; may be given several times
    #[arg(long, value_name = "CSV")]
    pub(crate) known_bad: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) of: OfEdition,
}

#[derive(Args)]
#[command(after_help = "\
Example:
  reference-values publish gateway.signed --to http://127.0.0.1:8443 --token-file api-token

The verifier checks the file against whom it trusts, its policy, and all that is in force; what it refuses changes nothing.
The token needs the role `operator` (`verifier token create`, or the one that `verifier init` made).")]
pub(crate) struct Publish {
    /// The signed release, list or notice
    pub(crate) file: PathBuf,
    /// The verifier's HTTP API, on this host: a verifier elsewhere is reached through a tunnel
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,
    /// File with the token to present [default: $COUNTERSIGN_VERIFIER__HTTP__TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What an import reads.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Form {
    /// Keylime's runtime policy, version 1
    Keylime,
    /// IMA's list of a good system, binary or as text
    Ima,
    /// CycloneDX or SPDX 2 as JSON, with digests of files
    Sbom,
    /// Debian packages: what is inside is hashed
    Deb,
    /// What sha256sum prints
    Sha256sum,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  reference-values import keylime policy.json --product acme/gateway --release 4.2.0 -o gateway.corim
  reference-values import ima binary_runtime_measurements --product acme/gateway --release 4.2.0 -o gateway.corim
  reference-values import deb driver.deb tools.deb --product acme/gateway --release 4.2.0 -o gateway.corim

Only SHA-256 counts. What is left out is printed with the reason: exclusions of a Keylime policy belong into the verifier's
policy, not into a release that a maker signs.")]
pub(crate) struct Import {
    /// What the files are
    pub(crate) form: Form,
    /// The files
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) of: OfRelease,
}
