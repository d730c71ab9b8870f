//! Which makers of TPMs are trusted. In goes a folder, out comes [`EkRoots`]:
//!
//! - `*.pem`, `*.crt`, `*.cer`, `*.der`: CA certificates of hardware TPMs' makers, PEM (any number a file) or DER;
//! - `software/`: the same for software TPMs, a class of its own that never passes for hardware;
//! - `crl/`: certificate revocation lists, `*.crl`, PEM or DER, each signed by a CA above or by an intermediate whose
//!   certificate lies beside it (named as above; it is trusted to revoke, not to vouch).
//!
//! A CA need not be self-signed to be a root: devices send the certificates in between only where their TPM holds them.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, TrustAnchor, pem::PemObject as _};
use thiserror::Error;
use webpki::{CertRevocationList, anchor_from_trusted_cert};
use x509_cert::Certificate;

use super::{
    DenyList,
    chain::{Authority, hex, is_ca, may_sign_certificates, parse, printable, sha256},
    crl,
};

/// Largest file that is read as certificates or a CRL, bytes: the largest CRLs of TPM makers have a few hundred KiB.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// What a file of certificates is called.
pub(super) const CERTIFICATE_EXTENSIONS: [&str; 4] = ["pem", "crt", "cer", "der"];
const SOFTWARE: &str = "software";
const CRLS: &str = "crl";

/// What kind of TPM a root speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RootClass {
    /// Keys in a chip: who has the machine does not have them.
    Hardware,
    /// Keys in a file of whoever runs the software TPM.
    Software,
}

impl RootClass {
    /// As it is shown and stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Software => "software",
        }
    }
}

/// One trusted CA.
#[derive(Debug, Clone)]
pub struct Root {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    subject: String,
    fingerprint: [u8; 32],
    class: RootClass,
    authority: Authority,
    not_before: i64,
    not_after: i64,
    not_after_text: String,
}

impl Root {
    /// Subject's name, printable.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// SHA-256 of the certificate.
    #[must_use]
    pub const fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// Hardware or software.
    #[must_use]
    pub const fn class(&self) -> RootClass {
        self.class
    }

    /// When it ends, RFC 3339: makers' roots may last until 9999-12-31, beyond what time stamps elsewhere can hold.
    #[must_use]
    pub fn not_after(&self) -> &str {
        &self.not_after_text
    }

    pub(super) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The name by which CRLs name their issuer.
    pub(super) fn raw_subject(&self) -> &[u8] {
        self.anchor.subject.as_ref()
    }

    pub(super) const fn authority(&self) -> &Authority {
        &self.authority
    }

    fn is_valid_at(&self, now: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&now.as_second())
    }
}

/// Something in the folder that keeps the roots from being used. Names the file and what is wrong there.
#[derive(Debug, Error)]
pub enum RootsError {
    /// Cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Not what its name says.
    #[error("{} is refused: {why}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A CA cannot speak for both kinds of TPM.
    #[error("{} is listed as hardware and as software; remove one of both", path.display())]
    BothClasses {
        /// The second of both files.
        path: PathBuf,
    },
}

impl RootsError {
    pub(super) fn file(path: &Path, why: &'static str) -> Self {
        Self::File { path: path.to_owned(), why }
    }
}

/// The trusted CAs and revocation lists of one folder, and what is refused whoever vouches for it.
#[derive(Debug, Default)]
pub struct EkRoots {
    roots: Vec<Root>,
    crls: Vec<CertRevocationList<'static>>,
    denied: DenyList,
    /// Of all that was read in the folder.
    digest: [u8; 32],
}

impl EkRoots {
    /// Reads the folder.
    ///
    /// # Errors
    /// [`RootsError`] where the folder is missing or anything in it cannot be used: a root that is silently left out
    /// would shut out its devices, a CRL would let some in.
    pub fn load(dir: &Path) -> Result<Self, RootsError> {
        let mut all = Self::default();
        let classes = [(dir.to_owned(), RootClass::Hardware), (dir.join(SOFTWARE), RootClass::Software)];
        for (folder, class) in classes {
            for path in files(&folder, &CERTIFICATE_EXTENSIONS, class == RootClass::Hardware)? {
                for root in read_roots(&path, class)? {
                    all.insert(root, &path)?;
                }
            }
        }
        let mut content = Vec::new();
        for root in &all.roots {
            content.extend(root.fingerprint);
            content.push(u8::from(root.class == RootClass::Hardware));
        }
        for crl in crl::load(&dir.join(CRLS), &all.roots)? {
            content.extend(crl.digest);
            all.crls.push(crl.list);
        }
        all.digest = sha256(&content);
        Ok(all)
    }

    /// The same, and what is refused besides.
    #[must_use]
    pub fn denying(mut self, denied: DenyList) -> Self {
        self.denied = denied;
        self
    }

    /// What is refused whoever vouches for it.
    #[must_use]
    pub const fn deny_list(&self) -> &DenyList {
        &self.denied
    }

    /// Whether `other` decides about every endorsement key as these do.
    #[must_use]
    pub fn decide_as(&self, other: &Self) -> bool {
        self.digest == other.digest && self.denied == other.denied
    }

    /// Validates the CA certificates in a file and copies them into the folder, one file each. Ones that are there
    /// already stay. Returns what the file holds.
    ///
    /// # Errors
    /// [`RootsError`] where the file holds anything but valid CA certificates, or one is already in the other class:
    /// then nothing was copied.
    pub fn add(dir: &Path, file: &Path, class: RootClass, now: Timestamp) -> Result<Vec<Root>, RootsError> {
        let mut all = Self::load(dir)?;
        let known: BTreeSet<_> = all.roots.iter().map(|root| root.fingerprint).collect();
        let roots = read_roots(file, class)?;
        for root in &roots {
            if !root.is_valid_at(now) {
                return Err(RootsError::file(file, "the CA certificate is expired or not yet valid"));
            }
            all.insert(root.clone(), file)?;
        }
        let folder = if class == RootClass::Software { dir.join(SOFTWARE) } else { dir.to_owned() };
        fs::create_dir_all(&folder).map_err(|source| RootsError::Io { path: folder.clone(), source })?;
        for root in roots.iter().filter(|root| !known.contains(&root.fingerprint)) {
            write_new(&folder, root)?;
        }
        Ok(roots)
    }

    /// The trusted CAs, hardware first.
    #[must_use]
    pub fn list(&self) -> &[Root] {
        &self.roots
    }

    fn insert(&mut self, root: Root, path: &Path) -> Result<(), RootsError> {
        match self.roots.iter().find(|known| known.anchor == root.anchor) {
            // The same CA may have several certificates; its class is one.
            Some(known) if known.class != root.class => Err(RootsError::BothClasses { path: path.to_owned() }),
            Some(known) if known.fingerprint == root.fingerprint => Ok(()),
            _ => {
                self.roots.push(root);
                Ok(())
            }
        }
    }

    /// Trust anchors of one class, valid now: webpki does not look at an anchor's dates.
    pub(super) fn anchors(&self, class: RootClass, now: Timestamp) -> Vec<TrustAnchor<'static>> {
        let wanted = self.roots.iter().filter(|root| root.class == class && root.is_valid_at(now));
        wanted.map(|root| root.anchor.clone()).collect()
    }

    pub(super) fn root_of(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        self.roots.iter().find(|root| root.anchor == *anchor)
    }

    pub(super) fn crls(&self) -> Vec<&CertRevocationList<'static>> {
        self.crls.iter().collect()
    }
}

/// Files with one of these extensions, sorted, so that errors and lists come in the same order each time.
pub(super) fn files(dir: &Path, extensions: &[&str], required: bool) -> Result<Vec<PathBuf>, RootsError> {
    let failed = |source| RootsError::Io { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let paths = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let wanted = |path: &PathBuf| {
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        extension.is_some_and(|e| extensions.contains(&e.as_str())) && path.is_file()
    };
    let mut wanted: Vec<_> = paths.into_iter().filter(wanted).collect();
    wanted.sort();
    Ok(wanted)
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, RootsError> {
    let failed = |source| RootsError::Io { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(RootsError::file(path, "it is larger than any file of certificates"));
    }
    fs::read(path).map_err(failed)
}

pub(super) fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"-----BEGIN ")
}

/// The CA certificates in one file.
pub(super) fn read_roots(path: &Path, class: RootClass) -> Result<Vec<Root>, RootsError> {
    let bytes = read(path)?;
    let ders = if is_pem(&bytes) {
        let sections = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        sections.map_err(|_| RootsError::file(path, "it is not well-formed PEM"))?
    } else {
        vec![CertificateDer::from(bytes)]
    };
    if ders.is_empty() {
        return Err(RootsError::file(path, "it holds no certificate"));
    }
    ders.into_iter().map(|der| Root::read(der, class).map_err(|why| RootsError::file(path, why))).collect()
}

impl Root {
    fn read(der: CertificateDer<'static>, class: RootClass) -> Result<Self, &'static str> {
        const UNREADABLE: &str = "it is not an X.509 certificate in PEM or DER";
        let certificate: Certificate = parse(&der).map_err(|_| UNREADABLE)?;
        if !is_ca(&certificate).map_err(|_| UNREADABLE)? {
            return Err("the certificate is not a CA's (basicConstraints): only a CA can vouch for endorsement keys");
        }
        if !may_sign_certificates(&certificate) {
            return Err("the CA's key usage does not let it sign certificates (keyCertSign)");
        }
        let anchor = anchor_from_trusted_cert(&der).map_err(|_| UNREADABLE)?.to_owned();
        let authority = Authority::of(&der).ok_or(UNREADABLE)?;
        let content = certificate.tbs_certificate();
        let validity = content.validity();
        let seconds =
            |time: x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
        Ok(Self {
            subject: printable(&content.subject().to_string()),
            fingerprint: sha256(&der),
            class,
            authority,
            not_before: seconds(validity.not_before),
            not_after: seconds(validity.not_after),
            not_after_text: validity.not_after.to_date_time().to_string(),
            anchor,
            der,
        })
    }
}

/// Writes the certificate under its fingerprint: whole, or not at all.
fn write_new(folder: &Path, root: &Root) -> Result<(), RootsError> {
    let name = hex(&root.fingerprint);
    let (path, unfinished) = (folder.join(format!("{name}.der")), folder.join(format!(".{name}.unfinished")));
    let write = || {
        let mut file = fs::File::create(&unfinished)?;
        file.write_all(&root.der)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|source| RootsError::Io { path: path.clone(), source })
}
