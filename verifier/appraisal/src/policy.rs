//! What a verifier asks for. A policy is text (TOML), read strictly; every field has a safe default.

use evidence::result::Claim;
use globset::{GlobBuilder, GlobMatcher};
use reference_values::{Required, Role};
use serde::Deserialize;

use crate::{UnixSeconds, cause::Code};

/// A policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Name that results carry.
    pub id: String,
    /// How long a verdict holds after the challenge was issued or the epoch opened, seconds.
    pub validity: u64,
    /// How often a device is asked for evidence unannounced, per day on average.
    pub unannounced_per_day: u32,
    /// What an executable that no release lists leads to.
    pub unlisted: Unlisted,
    /// PCR that attesters extend with their runtime log, 12 to 15.
    pub runtime_pcr: u8,
    /// Claims without which a verdict is at most a warning.
    pub require: Vec<Claim>,
    /// How many starts of the TPM without evidence are worth no warning.
    pub unseen_boots: u32,
    /// What secure boot that is off, though the release asks for it, leads to.
    pub secure_boot: SecureBoot,
    /// How long a device may run files of two releases that follow each other, where the later one does not say, seconds.
    pub update_window: u64,
    /// What files that exclusions let through lead to.
    pub excluded: Excluded,
    exclusions: Vec<Exclusion>,
    tolerated: Vec<Tolerance>,
    required: Required,
}

/// What an unlisted executable leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unlisted {
    /// It contradicts (default).
    Contraindicated,
    /// It is worth a warning.
    Warning,
}

/// What secure boot that is off leads to, where the release asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecureBoot {
    /// It contradicts (default).
    Contraindicated,
    /// It is worth a warning.
    Warning,
}

/// What files that exclusions let through lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Excluded {
    /// They are counted and shown (default).
    Counted,
    /// They are worth a warning.
    Warning,
}

/// Files that need no release, by where they say that they are.
#[derive(Debug, Clone)]
struct Exclusion {
    /// As it was written.
    written: String,
    matcher: GlobMatcher,
    why: String,
    until: Option<UnixSeconds>,
}

impl PartialEq for Exclusion {
    fn eq(&self, other: &Self) -> bool {
        (&self.written, &self.why, self.until) == (&other.written, &other.why, other.until)
    }
}

impl Eq for Exclusion {}

/// The exclusions that hold at an instant.
#[derive(Debug, Default)]
pub(crate) struct Exclusions<'a>(Vec<&'a GlobMatcher>);

impl Exclusions<'_> {
    /// Whether one is about this path. It is the device's word, so it decides about nothing that is known to be bad.
    pub(crate) fn let_through(&self, path: &str) -> bool {
        self.0.iter().any(|matcher| matcher.is_match(path))
    }
}

/// Where a system's programs live: exclusions that let all of these through let everything through.
const PROGRAMS: [&str; 7] = [
    "/bin/sh",
    "/sbin/init",
    "/lib/ld-linux.so.2",
    "/usr/bin/env",
    "/usr/sbin/sshd",
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/systemd/systemd",
];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tolerance {
    cause: Code,
    why: String,
    until: UnixSeconds,
}

/// A policy that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not the expected TOML; the message has line and column.
    #[error("{0}")]
    Toml(String),
    /// A name that does not exist.
    #[error("policy: {place}: there is no {kind} named `{name}`; see docs/causes.md and docs/policy.md")]
    UnknownName {
        /// Field.
        place: &'static str,
        /// What was expected.
        kind: &'static str,
        /// What was written.
        name: String,
    },
    /// A date that is none.
    #[error("policy: tolerate: `until = {0}` is not a date such as 2027-01-31 or 2027-01-31T00:00:00Z")]
    Date(String),
    /// An exclusion that says nothing, or too much.
    #[error("policy: exclude {0:?}: {1}")]
    Exclusion(String, &'static str),
    /// Exclusions that would let everything run.
    #[error(
        "policy: the exclusions together let everything through, {0} too; then no verdict says anything: name what you mean"
    )]
    ExcludesAll(&'static str),
    /// A value out of its range.
    #[error("policy: `{0}` must be between {1} and {2}")]
    Range(&'static str, u64, u64),
    /// Verdicts would expire between two epochs.
    #[error(
        "policy: `validity_seconds = {validity}` is too short for epochs of {period} seconds: a device answers an epoch \
         anywhere in it, and the verdict counts from its opening; set at least {least}, or a shorter `epoch_seconds`"
    )]
    Validity {
        /// What the policy says.
        validity: u64,
        /// Period of epochs.
        period: u64,
        /// What it must say at least.
        least: u64,
    },
}

const DEFAULT_REQUIRE: [Claim; 3] = [Claim::InstanceIdentity, Claim::Executables, Claim::Configuration];

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    id: String,
    validity_seconds: u64,
    unannounced_per_day: u32,
    unlisted: Unlisted,
    runtime_pcr: u8,
    require: Vec<String>,
    unseen_boots: u32,
    secure_boot: SecureBoot,
    update_window_seconds: u64,
    excluded: Excluded,
    exclude: Vec<WrittenExclusion>,
    tolerate: Vec<WrittenTolerance>,
    required_roles: Vec<String>,
    required: Vec<WrittenRoles>,
}

/// Roles that must have signed the releases of some products.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRoles {
    product: String,
    roles: Vec<String>,
}

/// One of the three places.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenExclusion {
    path: Option<String>,
    directory: Option<String>,
    glob: Option<String>,
    why: String,
    until: Option<toml::value::Datetime>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTolerance {
    cause: String,
    why: String,
    until: toml::value::Datetime,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            id: "default".into(),
            validity_seconds: 3 * 3600,
            unannounced_per_day: 1,
            unlisted: Unlisted::Contraindicated,
            runtime_pcr: 14,
            require: DEFAULT_REQUIRE.map(|claim| claim.name().to_owned()).to_vec(),
            unseen_boots: 0,
            secure_boot: SecureBoot::Contraindicated,
            update_window_seconds: 14 * 24 * 3600,
            excluded: Excluded::Counted,
            exclude: Vec::new(),
            tolerate: Vec::new(),
            required_roles: Vec::new(),
            required: Vec::new(),
        }
    }
}

impl Policy {
    /// Longest validity of a verdict, seconds: 31 days.
    pub const MAX_VALIDITY: u64 = 31 * 24 * 3600;
    /// What evidence may take on its way, beside two epochs, seconds.
    const UNDER_WAY: u64 = 300;
    /// Longest time for an update, seconds: a year.
    const MAX_UPDATE_WINDOW: u64 = 366 * 24 * 3600;
    /// Most exclusions: each is held against every file that no release lists.
    const MAX_EXCLUSIONS: usize = 1024;
    /// Most unannounced requests to a device per day: one in five minutes.
    pub const MAX_UNANNOUNCED: u32 = 288;

    /// Reads a policy.
    ///
    /// # Errors
    /// [`PolicyError`] says which line or name is wrong.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        let written: Written = toml::from_str(text).map_err(|error| PolicyError::Toml(in_one_line(&error)))?;
        if !(1..=Self::MAX_VALIDITY).contains(&written.validity_seconds) {
            return Err(PolicyError::Range("validity_seconds", 1, Self::MAX_VALIDITY));
        }
        if written.unannounced_per_day > Self::MAX_UNANNOUNCED {
            return Err(PolicyError::Range("unannounced_per_day", 0, Self::MAX_UNANNOUNCED.into()));
        }
        if !(12..=15).contains(&written.runtime_pcr) {
            return Err(PolicyError::Range("runtime_pcr", 12, 15));
        }
        if written.update_window_seconds > Self::MAX_UPDATE_WINDOW {
            return Err(PolicyError::Range("update_window_seconds", 0, Self::MAX_UPDATE_WINDOW));
        }
        written.into_policy()
    }

    /// Whether verdicts last from one epoch's evidence to the next, with epochs of `period` seconds. Evidence counts from
    /// the opening of its epoch, and the next may come at the very end of the next epoch.
    ///
    /// # Errors
    /// [`PolicyError::Validity`] where they do not.
    pub const fn check_period(&self, period: u64) -> Result<(), PolicyError> {
        let least = period.saturating_mul(2).saturating_add(Self::UNDER_WAY);
        if self.validity < least {
            return Err(PolicyError::Validity { validity: self.validity, period, least });
        }
        Ok(())
    }

    /// Roles that must have signed a release before it counts.
    #[must_use]
    pub const fn required(&self) -> &Required {
        &self.required
    }

    /// The exclusions that hold at `now`.
    pub(crate) fn exclusions(&self, now: UnixSeconds) -> Exclusions<'_> {
        let holds = |exclusion: &&Exclusion| exclusion.until.is_none_or(|until| now < until);
        Exclusions(self.exclusions.iter().filter(holds).map(|exclusion| &exclusion.matcher).collect())
    }

    /// Whether `cause` is tolerated at `now`, and why.
    #[must_use]
    pub fn tolerates(&self, cause: Code, now: UnixSeconds) -> Option<&str> {
        self.tolerated.iter().find(|t| t.cause == cause && now < t.until).map(|t| t.why.as_str())
    }
}

impl Default for Policy {
    fn default() -> Self {
        let Written {
            id,
            validity_seconds,
            unannounced_per_day,
            unlisted,
            runtime_pcr,
            unseen_boots,
            secure_boot,
            update_window_seconds,
            excluded,
            ..
        } = Written::default();
        Self {
            update_window: update_window_seconds,
            excluded,
            exclusions: vec![],
            unseen_boots,
            secure_boot,
            id,
            validity: validity_seconds,
            unannounced_per_day,
            unlisted,
            runtime_pcr,
            require: DEFAULT_REQUIRE.to_vec(),
            tolerated: vec![],
            required: Required::default(),
        }
    }
}

impl Written {
    fn into_policy(self) -> Result<Policy, PolicyError> {
        let everywhere = Required::everywhere(roles("required_roles", self.required_roles)?);
        let required = self.required.into_iter().try_fold(everywhere, |required, written| {
            Ok::<_, PolicyError>(required.for_products(&written.product, roles("required", written.roles)?))
        })?;
        Ok(Policy {
            update_window: self.update_window_seconds,
            excluded: self.excluded,
            exclusions: exclusions(self.exclude)?,
            required,
            id: self.id,
            validity: self.validity_seconds,
            unannounced_per_day: self.unannounced_per_day,
            unlisted: self.unlisted,
            runtime_pcr: self.runtime_pcr,
            require: self.require.into_iter().map(claim).collect::<Result<_, _>>()?,
            unseen_boots: self.unseen_boots,
            secure_boot: self.secure_boot,
            tolerated: self.tolerate.into_iter().map(tolerance).collect::<Result<_, _>>()?,
        })
    }
}

fn roles(place: &'static str, names: Vec<String>) -> Result<Vec<Role>, PolicyError> {
    let role = |name: String| name.parse().map_err(|_| PolicyError::UnknownName { place, kind: "role", name });
    names.into_iter().map(role).collect()
}

fn claim(name: String) -> Result<Claim, PolicyError> {
    let known = Claim::ALL.into_iter().find(|claim| claim.name() == name);
    known.ok_or(PolicyError::UnknownName { place: "require", kind: "claim", name })
}

fn exclusions(written: Vec<WrittenExclusion>) -> Result<Vec<Exclusion>, PolicyError> {
    if written.len() > Policy::MAX_EXCLUSIONS {
        return Err(PolicyError::Range("exclude", 0, Policy::MAX_EXCLUSIONS as u64));
    }
    let all = written.into_iter().map(exclusion).collect::<Result<Vec<_>, _>>()?;
    let let_through = |path: &&&str| all.iter().any(|exclusion| exclusion.matcher.is_match(path));
    match PROGRAMS.iter().filter(let_through).count() {
        all if all == PROGRAMS.len() => Err(PolicyError::ExcludesAll("/usr/bin/env")),
        _ => Ok(all),
    }
}

fn exclusion(written: WrittenExclusion) -> Result<Exclusion, PolicyError> {
    let WrittenExclusion { path, directory, glob, why, until } = written;
    let wrong = |text: &str, why| PolicyError::Exclusion(text.to_owned(), why);
    let (written, pattern) = match (path, directory, glob) {
        (Some(path), None, None) => (path.clone(), globset::escape(&path)),
        (None, Some(directory), None) => {
            let inside = format!("{}/**", globset::escape(directory.trim_end_matches('/')));
            (directory, inside)
        }
        (None, None, Some(glob)) => (glob.clone(), glob),
        _ => return Err(wrong("", "one of `path`, `directory` and `glob` is expected")),
    };
    if !written.starts_with('/') {
        return Err(wrong(&written, "a path begins with `/`"));
    }
    if why.trim().is_empty() {
        return Err(wrong(&written, "`why` says nothing"));
    }
    let glob = GlobBuilder::new(&pattern).literal_separator(true).build();
    let matcher = glob.map_err(|_| wrong(&written, "it is no pattern: see docs/policy.md"))?.compile_matcher();
    Ok(Exclusion { written, matcher, why, until: until.as_ref().map(instant).transpose()? })
}

fn tolerance(written: WrittenTolerance) -> Result<Tolerance, PolicyError> {
    let WrittenTolerance { cause, why, until } = written;
    let unknown = || PolicyError::UnknownName { place: "tolerate", kind: "cause", name: cause.clone() };
    Ok(Tolerance { cause: Code::from_code(&cause).ok_or_else(unknown)?, why, until: instant(&until)? })
}

/// Place and fault in one line: logs and tables have no room for the excerpt that is drawn between them.
fn in_one_line(error: &toml::de::Error) -> String {
    let drawn = error.to_string();
    format!("{}: {}", drawn.lines().next().unwrap_or_default(), error.message())
}

/// A date counts from its first second, UTC.
fn instant(date: &toml::value::Datetime) -> Result<UnixSeconds, PolicyError> {
    let text = date.to_string();
    let full = if date.time.is_none() { format!("{text}T00:00:00Z") } else { text.clone() };
    let parsed = full.parse::<jiff::Timestamp>().map_err(|_| PolicyError::Date(text.clone()))?;
    u64::try_from(parsed.as_second()).map_err(|_| PolicyError::Date(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_is_the_empty_file() {
        assert_eq!(Policy::from_toml("").unwrap(), Policy::default());
    }

    #[test]
    fn roles_are_asked_for_everywhere_or_by_product() {
        let text = "required_roles = [\"manufacturer\"]\n[[required]]\nproduct = \"acme/*\"\nroles = [\"importer\"]\n";
        let policy = Policy::from_toml(text).unwrap();
        assert_eq!(policy.required().roles_for("acme/x"), [Role::Importer]);
        assert_eq!(policy.required().roles_for("other"), [Role::Manufacturer]);
        let error = Policy::from_toml("required_roles = [\"maker\"]").unwrap_err().to_string();
        assert!(error.contains("maker") && error.contains("role"), "{error}");
    }

    fn excluding(lines: &str) -> Result<Policy, PolicyError> {
        let entries = lines.lines().map(|line| format!("[[exclude]]\n{line}\nwhy = \"a reason\"\n"));
        Policy::from_toml(&entries.collect::<String>())
    }

    #[test]
    fn exclusions_are_exact_or_of_a_directory_or_by_pattern() {
        let policy =
            excluding("path = \"/opt/[a]\"\ndirectory = \"/var/lib/x/\"\nglob = \"/home/*/bin/*.py\"").unwrap();
        let let_through = policy.exclusions(0);
        for path in ["/opt/[a]", "/var/lib/x/a", "/var/lib/x/a/b", "/home/u/bin/a.py"] {
            assert!(let_through.let_through(path), "{path}");
        }
        for path in [
            "/opt/a",
            "/opt/[a]/b",
            "/var/lib/x",
            "/var/lib/xy",
            "/home/u/v/bin/a.py",
            "/home/u/bin/a/b.py",
            "/x/opt/[a]",
        ] {
            assert!(!let_through.let_through(path), "{path}");
        }
    }

    #[test]
    fn an_exclusion_ends_at_its_date() {
        let text = "[[exclude]]\npath = \"/a\"\nwhy = \"b\"\nuntil = 2027-01-01\n";
        let policy = Policy::from_toml(text).unwrap();
        assert!(policy.exclusions(1_798_761_599).let_through("/a"));
        assert!(!policy.exclusions(1_798_761_600).let_through("/a"));
    }

    #[test]
    fn exclusions_that_let_everything_through_are_refused() {
        for all in [
            "directory = \"/\"",
            "glob = \"/**\"",
            "glob = \"/**/*\"",
            "glob = \"/*\"\nglob = \"/*/*\"\nglob = \"/*/*/**\"",
            "glob = \"/{bin,sbin,lib,usr}/**\"",
        ] {
            assert!(matches!(excluding(all), Err(PolicyError::ExcludesAll(_))), "{all}");
        }
        assert!(excluding("directory = \"/home\"\ndirectory = \"/opt\"\ndirectory = \"/tmp\"").is_ok());
    }

    #[test]
    fn a_tolerance_ends_at_its_date() {
        let policy =
            Policy::from_toml("[[tolerate]]\ncause = \"hardware.software-tpm\"\nwhy = \"tests\"\nuntil = 2027-01-01\n")
                .unwrap();
        let end = 1_798_761_600;
        assert_eq!(policy.tolerates(Code::HardwareSoftwareTpm, end - 1), Some("tests"));
        assert_eq!(policy.tolerates(Code::HardwareSoftwareTpm, end), None);
        assert_eq!(policy.tolerates(Code::LogMismatch, end - 1), None);
    }

    #[test]
    fn a_verdict_lasts_for_two_epochs_or_the_policy_is_refused() {
        let policy = Policy::default();
        assert_eq!(policy.check_period(3600), Ok(()));
        assert_eq!(policy.check_period((policy.validity - 300) / 2), Ok(()));
        let too_long = policy.check_period((policy.validity - 300) / 2 + 1).unwrap_err();
        assert!(too_long.to_string().contains("set at least 10802"), "{too_long}");
        assert!(policy.check_period(u64::MAX).is_err());
    }

    #[test]
    fn a_mistake_is_told_with_its_place_in_one_line() {
        let said = Policy::from_toml("id = \"a\"\nunknown = 1\n").unwrap_err().to_string();
        assert!(said.contains("line 2, column 1: unknown field `unknown`") && !said.contains('\n'), "{said}");
    }

    #[test]
    fn what_is_misspelt_is_refused_by_name() {
        for bad in [
            "unlisted = \"never\"",
            "tolerat = []",
            "require = [\"identity\"]",
            "validity_seconds = 0",
            "unseen_boots = -1",
            "secure_boot = \"off\"",
            "unannounced_per_day = 289",
            "excluded = \"no\"",
            "update_window_seconds = 99999999999",
            "[[exclude]]\nwhy = \"a\"",
            "[[exclude]]\npath = \"/a\"\ndirectory = \"/b\"\nwhy = \"a\"",
            "[[exclude]]\npath = \"a\"\nwhy = \"a\"",
            "[[exclude]]\npath = \"/a\"\nwhy = \" \"",
            "[[exclude]]\nglob = \"/a[\"\nwhy = \"a\"",
            "[[tolerate]]\ncause = \"x.y\"\nwhy = \"\"\nuntil = 2027-01-01",
            "[[tolerate]]\ncause = \"overdue\"\nwhy = \"\"\nuntil = 07:32:00",
        ] {
            assert!(Policy::from_toml(bad).is_err(), "{bad}");
        }
    }
}
