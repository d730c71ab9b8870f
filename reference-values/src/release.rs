//! One release of one product, as plain data with its rules: names that can stand in any table, executables once each
//! in order of their digests, boots that name only PCRs that stay still after boot.

use std::collections::{BTreeMap, BTreeSet};

use evidence::{
    eventlog::Replay,
    pcr::{HashAlgorithm, PROFILE_PCRS, PcrValues},
};
use thiserror::Error;

use crate::{
    boot_rules::{BootRules, ImaPolicy, NotGood},
    limits::{
        MAX_BOOT_RULES, MAX_BOOTS, MAX_EXECUTABLES, MAX_IMA_POLICIES, MAX_IMAGES, MAX_NAME, MAX_PATH, MAX_SECTIONS,
        MAX_UPDATE_WINDOW,
    },
};

/// PCRs that grow while the system runs: IMA's list (10) and the runtime log (14). A boot cannot fix their value.
const RUNTIME_PCRS: [u8; 2] = [10, 14];
/// PCR 0 to 9 belong to firmware and boot loader, as IMA's boot_aggregate has it.
const LAST_BOOT_PCR: u8 = 9;

/// What a release cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Invalid {
    /// A name with a mistake.
    #[error("{kind} name {name:?} is not allowed: {why}")]
    Name {
        /// Product or release.
        kind: &'static str,
        /// The name.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A path with a mistake.
    #[error("path {0:?} is empty, longer than 4096 bytes or has control characters")]
    Path(String),
    /// Two measurements that must be one, or not in the order that makes the encoding unique.
    #[error("{0} are not in ascending order, each once")]
    Order(&'static str),
    /// A PCR that a boot cannot fix.
    #[error("a boot cannot fix PCR {0}: only PCR 0 to 15 without 10 and 14 stay still after boot")]
    Pcr(u64),
    /// A boot log without the bank that is quoted.
    #[error("the boot log has no SHA-256 measurements, and only SHA-256 PCRs are quoted")]
    NoSha256,
    /// A boot rule that says nothing, or contradicts itself.
    #[error("boot rules: {0}")]
    Rule(&'static str),
    /// A command line that no kernel gets.
    #[error("command line {0:?}… is longer than 4096 bytes or has control characters")]
    CommandLine(String),
    /// A log that no rules can be made from.
    #[error("boot log {number}: {why}")]
    Log {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        why: NotGood,
    },
    /// Nothing measured.
    #[error("the release holds neither an executable nor a boot")]
    Empty,
    /// Over a limit of [`crate::limits`].
    #[error("more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
    /// A serial that no table can show.
    #[error("serial {0:?} is longer than 64 bytes or not printable ASCII")]
    Serial(String),
    /// A reason that says nothing, or that no table can show.
    #[error("reason {0:?}… is empty, longer than 512 bytes or has control characters")]
    Reason(String),
    /// A document without content.
    #[error("{0}")]
    NothingSaid(&'static str),
    /// Further digests of a file that is not among the executables.
    #[error("further digests are given for a file that is not listed")]
    FurtherDigests,
    /// An update that never ends.
    #[error("the update window is longer than a year")]
    UpdateWindow,
    /// The end comes before the beginning, or after every calendar's.
    #[error("retire-at comes before valid-from, or after the year 9999")]
    Validity,
}

/// A file that may run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Executable {
    /// SHA-256 of its content: what decides.
    pub digest: [u8; 32],
    /// Where it stood when it was measured: for people to read, decides nothing.
    pub path: String,
}

/// Digests of a file beside its SHA-256, for lists that are kept in other algorithms. They decide nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FurtherDigests {
    /// SHA-1.
    pub sha1: Option<[u8; 20]>,
    /// SHA-384.
    pub sha384: Option<[u8; 48]>,
    /// SHA-512.
    pub sha512: Option<[u8; 64]>,
}

/// What kind of thing boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageKind {
    /// A kernel.
    Kernel,
    /// An initial file system.
    Initrd,
    /// A unified kernel image.
    Uki,
    /// A boot loader, or another program for the firmware.
    Loader,
}

impl ImageKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Kernel, Self::Initrd, Self::Uki, Self::Loader];

    /// Name in files and outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Uki => "uki",
            Self::Loader => "loader",
        }
    }
}

/// Something that boots. Boot rules judge what did; this says what is in the files, and what kexec may load.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootImage {
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    /// What it is.
    pub kind: ImageKind,
    /// SHA-256 Authenticode digest: what the firmware measures of it.
    pub authenticode: Option<[u8; 32]>,
    /// Names and SHA-256 digests of its sections, in the order of the file.
    pub sections: Vec<(String, [u8; 32])>,
    /// Where it stood when it was measured.
    pub path: String,
}

impl BootImage {
    fn check(&self) -> Result<(), Invalid> {
        if !path_allowed(&self.path) {
            return Err(Invalid::Path(self.path.clone()));
        }
        if self.sections.len() > MAX_SECTIONS {
            return Err(Invalid::TooMany { what: "sections of one image", limit: MAX_SECTIONS });
        }
        self.sections.iter().try_for_each(|(name, _)| check_name("section", name))
    }
}

/// SHA-256 PCR values after one good boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootPcrs(BTreeMap<u8, [u8; 32]>);

impl BootPcrs {
    /// From values by PCR index.
    ///
    /// # Errors
    /// [`Invalid::Pcr`] for an index that a boot cannot fix; [`Invalid::Empty`] without any.
    pub fn new(pcrs: BTreeMap<u8, [u8; 32]>) -> Result<Self, Invalid> {
        match pcrs.keys().find(|&&index| !Self::may_hold(u64::from(index))) {
            Some(&index) => Err(Invalid::Pcr(u64::from(index))),
            None if pcrs.is_empty() => Err(Invalid::Empty),
            None => Ok(Self(pcrs)),
        }
    }

    /// What a replayed boot log fixes: every PCR that it extends, and zero for those of PCR 0 to 9 that it leaves
    /// alone, because firmware and loader could have extended them and did not. PCR 11 to 13 and 15 belong to the
    /// system that boots (systemd-stub, then user space), so without an entry nothing is said of them.
    ///
    /// # Errors
    /// [`Invalid::NoSha256`] where the log has no SHA-256 bank.
    pub fn from_replay(replay: &Replay) -> Result<Self, Invalid> {
        if replay.banks.get(&HashAlgorithm::Sha256).is_none_or(BTreeMap::is_empty) {
            return Err(Invalid::NoSha256);
        }
        let fixed = (0..16_u8).filter(|&index| Self::may_hold(index.into()));
        Self::new(
            fixed
                .filter_map(|index| {
                    let unused = (index <= LAST_BOOT_PCR).then_some([0; 32]);
                    Some((index, replay.sha256(index.into()).or(unused)?))
                })
                .collect(),
        )
    }

    /// Whether a boot can fix this PCR.
    #[must_use]
    pub fn may_hold(index: u64) -> bool {
        usize::try_from(index).is_ok_and(|index| index < PROFILE_PCRS)
            && !RUNTIME_PCRS.iter().any(|&runtime| u64::from(runtime) == index)
    }

    /// Values by PCR index. A PCR that is not named is not looked at.
    #[must_use]
    pub const fn pcrs(&self) -> &BTreeMap<u8, [u8; 32]> {
        &self.0
    }

    /// Named PCRs whose quoted value differs; none: this boot is the one that was quoted.
    pub fn mismatches(&self, quoted: &PcrValues) -> impl Iterator<Item = u8> {
        self.0.iter().filter(|&(&index, value)| quoted.get(usize::from(index)) != Some(value)).map(|(&index, _)| index)
    }
}

/// What a release measures. The order of what stands in it, and what stands there twice, says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// What may run.
    pub executables: Vec<Executable>,
    /// PCR values of boots, each as good as the other.
    pub boots: Vec<BootPcrs>,
    /// Rules for boots, each as good as the other.
    pub boot_rules: Vec<BootRules>,
    /// Policies that IMA may be given.
    pub ima_policies: Vec<ImaPolicy>,
    /// Kernels, initial file systems and what else boots.
    pub images: Vec<BootImage>,
    /// Digests of executables in other algorithms, by their SHA-256.
    pub further_digests: BTreeMap<[u8; 32], FurtherDigests>,
}

impl Content {
    /// The same in the one order that it is written in: a digest found at several paths once, under the first path.
    fn ordered(mut self) -> Self {
        fn ordered<T: Ord>(list: Vec<T>) -> Vec<T> {
            list.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
        }
        self.executables.sort_unstable();
        self.executables.dedup_by(|later, first| later.digest == first.digest);
        self.ima_policies.sort_unstable();
        self.ima_policies.dedup_by(|later, first| later.digest == first.digest);
        self.images.sort_unstable();
        self.images.dedup_by(|later, first| later.digest == first.digest);
        self.further_digests.retain(|_, further| *further != FurtherDigests::default());
        Self { boots: ordered(self.boots), boot_rules: ordered(self.boot_rules), ..self }
    }

    fn check(&self) -> Result<(), Invalid> {
        let Self { executables, boots, boot_rules, ima_policies, images, further_digests } = self;
        if executables.is_empty() && boots.is_empty() && boot_rules.is_empty() {
            return Err(Invalid::Empty);
        }
        for (what, n, limit) in [
            ("executables", executables.len(), MAX_EXECUTABLES),
            ("boots", boots.len(), MAX_BOOTS),
            ("sets of boot rules", boot_rules.len(), MAX_BOOT_RULES),
            ("IMA policies", ima_policies.len(), MAX_IMA_POLICIES),
            ("boot images", images.len(), MAX_IMAGES),
        ] {
            if n > limit {
                return Err(Invalid::TooMany { what, limit });
            }
        }
        for (what, in_order) in [
            ("executables", executables.is_sorted_by(|a, b| a.digest < b.digest)),
            ("boots", boots.is_sorted_by(|a, b| a < b)),
            ("boot rules", boot_rules.is_sorted_by(|a, b| a < b)),
            ("IMA policies", ima_policies.is_sorted_by(|a, b| a.digest < b.digest)),
            ("boot images", images.is_sorted_by(|a, b| a.digest < b.digest)),
        ] {
            if !in_order {
                return Err(Invalid::Order(what));
            }
        }
        ima_policies.iter().try_for_each(ImaPolicy::check)?;
        images.iter().try_for_each(BootImage::check)?;
        let listed = |digest: &[u8; 32]| executables.binary_search_by(|file| file.digest.cmp(digest)).is_ok();
        if !further_digests.keys().all(listed) {
            return Err(Invalid::FurtherDigests);
        }
        match executables.iter().find(|file| !path_allowed(&file.path)) {
            Some(bad) => Err(Invalid::Path(bad.path.clone())),
            None => Ok(()),
        }
    }
}

/// Everything that one release says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    product: String,
    name: String,
    sequence: u64,
    valid_from: Option<u64>,
    retire_at: Option<u64>,
    update_window: Option<u64>,
    content: Content,
}

impl Release {
    /// The end of the year 9999: "has no end", where the format demands one (RFC 5280 §4.1.2.5).
    pub const NEVER: u64 = 253_402_300_799;

    /// A release with executables and boots in any order; a digest found at several paths is kept once, under the
    /// first path.
    ///
    /// # Errors
    /// [`Invalid`] where a name, a path, or the amount of content breaks a rule.
    pub fn new(
        product: &str,
        name: &str,
        sequence: u64,
        executables: Vec<Executable>,
        boots: Vec<BootPcrs>,
    ) -> Result<Self, Invalid> {
        Self::with_content(product, name, sequence, Content { executables, boots, ..Content::default() })
    }

    /// A release with all that it measures, in any order.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_content(product: &str, name: &str, sequence: u64, content: Content) -> Result<Self, Invalid> {
        Self::from_ordered(product, name, sequence, content.ordered())
    }

    /// The same, from content that must be in order and unique already.
    pub(crate) fn from_ordered(product: &str, name: &str, sequence: u64, content: Content) -> Result<Self, Invalid> {
        check_product(product)?;
        check_name("release", name)?;
        if LISTS.iter().any(|beginning| name.starts_with(beginning)) {
            let why = "lists and notices are called so";
            return Err(Invalid::Name { kind: "release", name: shortened(name), why });
        }
        content.check()?;
        let (product, name) = (product.to_owned(), name.to_owned());
        Ok(Self { product, name, sequence, valid_from: None, retire_at: None, update_window: None, content })
    }

    /// The same release with rules for its boots.
    ///
    /// # Errors
    /// [`Invalid::TooMany`].
    pub fn with_boot_rules(mut self, boot_rules: Vec<BootRules>) -> Result<Self, Invalid> {
        self.content = Content { boot_rules, ..self.content }.ordered();
        self.content.check().map(|()| self)
    }

    /// The same release with policies that IMA may be given.
    ///
    /// # Errors
    /// [`Invalid::TooMany`], [`Invalid::Path`].
    pub fn with_ima_policies(mut self, ima_policies: Vec<ImaPolicy>) -> Result<Self, Invalid> {
        self.content = Content { ima_policies, ..self.content }.ordered();
        self.content.check().map(|()| self)
    }

    /// The same release with a validity. [`Self::NEVER`] as an end is no end.
    ///
    /// # Errors
    /// [`Invalid::Validity`] where the end comes before the beginning.
    pub fn valid(mut self, from: Option<u64>, retire_at: Option<u64>) -> Result<Self, Invalid> {
        if from.unwrap_or(0) > retire_at.unwrap_or(Self::NEVER) || retire_at > Some(Self::NEVER) {
            return Err(Invalid::Validity);
        }
        self.valid_from = from;
        self.retire_at = retire_at.filter(|&end| end != Self::NEVER);
        Ok(self)
    }

    /// The same release with the time, in seconds, in which a device may run files of it and of the release before.
    ///
    /// # Errors
    /// [`Invalid::UpdateWindow`] where it is longer than a year.
    pub fn with_update_window(mut self, seconds: Option<u64>) -> Result<Self, Invalid> {
        if seconds > Some(MAX_UPDATE_WINDOW) {
            return Err(Invalid::UpdateWindow);
        }
        self.update_window = seconds;
        Ok(self)
    }

    /// The product: `model` or `vendor/model`.
    #[must_use]
    pub fn product(&self) -> &str {
        &self.product
    }

    /// The release's name within its product, as its makers call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Grows with every release of a product, and with every new edition of one release.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// From when on it may be used, seconds since the Unix epoch.
    #[must_use]
    pub const fn valid_from(&self) -> Option<u64> {
        self.valid_from
    }

    /// From when on it is stale, seconds since the Unix epoch.
    #[must_use]
    pub const fn retire_at(&self) -> Option<u64> {
        self.retire_at
    }

    /// For how long a device may run files of this release and of the one before, seconds; `None` where the verifier's
    /// policy says it.
    #[must_use]
    pub const fn update_window(&self) -> Option<u64> {
        self.update_window
    }

    /// What may run, in ascending order of digests.
    #[must_use]
    pub fn executables(&self) -> &[Executable] {
        &self.content.executables
    }

    /// Boots, each as good as the other.
    #[must_use]
    pub fn boots(&self) -> &[BootPcrs] {
        &self.content.boots
    }

    /// Rules for boots, each as good as the other.
    #[must_use]
    pub fn boot_rules(&self) -> &[BootRules] {
        &self.content.boot_rules
    }

    /// Policies that IMA may be given, in ascending order of digests.
    #[must_use]
    pub fn ima_policies(&self) -> &[ImaPolicy] {
        &self.content.ima_policies
    }

    /// Kernels, initial file systems and what else boots, in ascending order of digests.
    #[must_use]
    pub fn images(&self) -> &[BootImage] {
        &self.content.images
    }

    /// Digests of executables in other algorithms, by their SHA-256.
    #[must_use]
    pub const fn further_digests(&self) -> &BTreeMap<[u8; 32], FurtherDigests> {
        &self.content.further_digests
    }

    pub(crate) fn into_content(self) -> Content {
        self.content
    }
}

pub(crate) fn path_allowed(path: &str) -> bool {
    !path.is_empty() && path.len() <= MAX_PATH && !path.chars().any(char::is_control)
}

/// What lists and notices are called begins so, beside the names of releases.
pub(crate) const LISTS: [&str; 2] = ["endorsements:", "notice:"];

/// A product, or the beginning of products' names with `*` at its end.
pub(crate) fn check_pattern(pattern: &str) -> Result<(), Invalid> {
    let Some(beginning) = pattern.strip_suffix('*') else { return check_product(pattern) };
    if beginning.contains('*') {
        return Err(Invalid::Name { kind: "product", name: shortened(pattern), why: "'*' stands only at the end" });
    }
    // With a letter in the place of '*' it must be able to be a product.
    check_product(&format!("{beginning}x"))
}

/// A product is `model` or `vendor/model`: one slash at most, so that the two parts of a CoMID class and the one name
/// that people use say the same in both directions.
pub(crate) fn check_product(product: &str) -> Result<(), Invalid> {
    let refuse = |why| Err(Invalid::Name { kind: "product", name: shortened(product), why });
    if product.contains('@') {
        return refuse("'@' stands between product and release");
    }
    if product.contains('*') {
        return refuse("'*' stands for the rest of a name, and only in notices");
    }
    match product.split_once('/') {
        None => check_name("product", product),
        Some((_, model)) if model.contains('/') => refuse("more than one '/'"),
        Some((vendor, model)) => check_name("product", vendor).and_then(|()| check_name("product", model)),
    }
    .and_then(|()| if product.len() > MAX_NAME { refuse("longer than 128 bytes") } else { Ok(()) })
}

pub(crate) fn check_name(kind: &'static str, name: &str) -> Result<(), Invalid> {
    let why = if name.is_empty() {
        "empty"
    } else if name.len() > MAX_NAME {
        "longer than 128 bytes"
    } else if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        "only printable ASCII without spaces is allowed"
    } else {
        return Ok(());
    };
    Err(Invalid::Name { kind, name: shortened(name), why })
}

fn shortened(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::{BootPcrs, Executable, Invalid, Release};

    fn file(byte: u8, path: &str) -> Executable {
        Executable { digest: [byte; 32], path: path.into() }
    }

    #[test]
    fn a_digest_found_twice_is_kept_once_under_the_first_path() {
        let files = vec![file(2, "/b"), file(1, "/z"), file(1, "/a")];
        let release = Release::new("acme/gw", "1", 1, files, vec![]).unwrap();
        assert_eq!(release.executables(), [file(1, "/a"), file(2, "/b")]);
    }

    #[test]
    fn names_that_read_two_ways_are_refused() {
        for product in ["", "a@b", "a/b/c", "/a", "a/", "a b", "a\n", "ä", &"x".repeat(129)] {
            assert!(Release::new(product, "1", 1, vec![file(1, "/a")], vec![]).is_err(), "{product:?}");
        }
        for name in ["", "1 2", "\u{1b}[31m"] {
            assert!(Release::new("p", name, 1, vec![file(1, "/a")], vec![]).is_err(), "{name:?}");
        }
        assert!(Release::new("acme/gw", "1.0@rc1", 1, vec![file(1, "/a")], vec![]).is_ok());
    }

    #[test]
    fn a_boot_names_only_pcrs_that_stay_still() {
        for index in [10, 14, 16, 255] {
            assert_eq!(BootPcrs::new([(index, [0; 32])].into()), Err(Invalid::Pcr(index.into())));
        }
        assert!(BootPcrs::new([(0, [0; 32]), (15, [0; 32])].into()).is_ok());
        assert!(BootPcrs::new([].into()).is_err());
    }

    #[test]
    fn an_empty_release_and_a_backward_validity_are_refused() {
        assert_eq!(Release::new("p", "1", 1, vec![], vec![]), Err(Invalid::Empty));
        let release = Release::new("p", "1", 1, vec![file(1, "/a")], vec![]).unwrap();
        assert_eq!(release.valid(Some(2), Some(1)), Err(Invalid::Validity));
    }

    #[test]
    fn only_named_pcrs_are_compared() {
        let quoted = evidence::pcr::PcrValues::new([[7; 32]; 16]);
        let boot = BootPcrs::new([(0, [7; 32]), (4, [8; 32])].into()).unwrap();
        assert_eq!(boot.mismatches(&quoted).collect::<Vec<_>>(), [4]);
    }
}
