//! Certificate revocation lists: in goes the folder `crl/`, out come lists whose signatures hold. One that no known CA
//! signed is refused when it is read: a path would meet it too late, and shut out honest devices.

use std::path::Path;

use evidence::reader::Reader;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject as _};
use webpki::{ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, OwnedCertRevocationList};
use x509_cert::ext::pkix::KeyUsage;

use super::{
    RootClass, RootsError,
    chain::{parse, sha256},
    roots::{CERTIFICATE_EXTENSIONS, Root, files, is_pem, read, read_roots},
};

/// A list whose signature holds.
pub(super) struct SignedCrl {
    pub(super) list: CertRevocationList<'static>,
    /// SHA-256 of its DER.
    pub(super) digest: [u8; 32],
}

/// All lists of the folder.
///
/// # Errors
/// [`RootsError`] names the file that cannot be used. Two lists for the same certificates are an error: only one of them
/// would be looked at.
pub(super) fn load(folder: &Path, roots: &[Root]) -> Result<Vec<SignedCrl>, RootsError> {
    let mut beside = Vec::new();
    for path in files(folder, &CERTIFICATE_EXTENSIONS, false)? {
        // The class plays no part: these CAs vouch for nobody.
        beside.extend(read_roots(&path, RootClass::Hardware)?);
    }
    let mut all: Vec<SignedCrl> = Vec::new();
    for path in files(folder, &["crl"], false)? {
        for der in read_ders(&path)? {
            let crl = SignedCrl::read(&der, roots.iter().chain(&beside)).map_err(|why| RootsError::file(&path, why))?;
            if all.iter().any(|other| other.covers_the_same(&crl)) {
                let why = "another file has a list of the same CA for the same certificates; remove the older one";
                return Err(RootsError::file(&path, why));
            }
            all.push(crl);
        }
    }
    Ok(all)
}

fn read_ders(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, RootsError> {
    let bytes = read(path)?;
    if !is_pem(&bytes) {
        return Ok(vec![bytes.into()]);
    }
    let sections = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match sections {
        Ok(lists) if lists.is_empty() => Err(RootsError::file(path, "it holds no certificate revocation list")),
        Ok(lists) => Ok(lists),
        Err(_) => Err(RootsError::file(path, "it is not well-formed PEM")),
    }
}

impl SignedCrl {
    fn read<'a>(
        der: &CertificateRevocationListDer<'_>,
        mut known: impl Iterator<Item = &'a Root>,
    ) -> Result<Self, &'static str> {
        const UNREADABLE: &str = "it is not a whole, direct certificate revocation list in PEM or DER";
        let list: CertRevocationList<'static> = OwnedCertRevocationList::from_der(der).map_err(|_| UNREADABLE)?.into();
        let signed = Signed::read(der).ok_or(UNREADABLE)?;
        let mut named = false;
        let signs = |root: &Root| {
            let is_named = root.raw_subject() == list.issuer();
            named |= is_named;
            is_named && may_sign_crls(root.der()) && signed.is_by(root.der())
        };
        match (known.any(signs), named) {
            (true, _) => Ok(Self { list, digest: sha256(der) }),
            (false, true) => Err("the CA that it names did not sign it, or may not sign such lists (cRLSign)"),
            (false, false) => {
                Err("the CA that it names is neither a root here, nor does its certificate lie beside it")
            }
        }
    }

    fn covers_the_same(&self, other: &Self) -> bool {
        self.list.issuer() == other.list.issuer()
            && self.list.issuing_distribution_point() == other.list.issuing_distribution_point()
    }
}

/// Key usage, where there is one, has cRLSign (RFC 5280 §6.3.3 (f)).
fn may_sign_crls(ca: &CertificateDer<'_>) -> bool {
    let usage = parse(ca).map(|ca| ca.tbs_certificate().get_extension::<KeyUsage>());
    matches!(usage, Ok(Ok(found)) if found.as_ref().is_none_or(|(_, usage)| usage.crl_sign()))
}

/// The parts of a CertificateList (RFC 5280 §5.1).
struct Signed<'a> {
    content: &'a [u8],
    /// AlgorithmIdentifier without its head.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        const SEQUENCE: u8 = 0x30;
        const BIT_STRING: u8 = 0x03;
        let (_, list, []) = element(der, SEQUENCE)? else { return None };
        let (content, _, rest) = element(list, SEQUENCE)?;
        let (_, algorithm, rest) = element(rest, SEQUENCE)?;
        let (_, [0, signature @ ..], []) = element(rest, BIT_STRING)? else { return None };
        Some(Self { content, algorithm, signature })
    }

    fn is_by(&self, ca: &CertificateDer<'_>) -> bool {
        let Ok(ca) = EndEntityCert::try_from(ca) else { return false };
        let mut named =
            ALL_VERIFICATION_ALGS.iter().filter(|known| known.signature_alg_id().as_ref() == self.algorithm);
        named.any(|known| ca.verify_signature(*known, self.content, self.signature).is_ok())
    }
}

/// One DER element with this tag: all of it, its content, and what follows.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8], &[u8])> {
    let mut r = Reader::new("DER", bytes);
    if r.u8().ok()? != tag {
        return None;
    }
    let length = match r.u8().ok()? {
        short @ 0..=0x7F => usize::from(short),
        0x81 => usize::from(r.u8().ok()?),
        0x82 => usize::from(r.u16_be().ok()?),
        0x83 => (usize::from(r.u8().ok()?) << 16) | usize::from(r.u16_be().ok()?),
        _ => return None,
    };
    let head = r.at();
    let (whole, rest) = bytes.split_at_checked(head.checked_add(length)?)?;
    Some((whole, whole.get(head..)?, rest))
}
