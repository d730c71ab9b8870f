//! Endorsement keys that an operator lists: in goes a file, out come digests, each perhaps with the product of its device.
//! All of a file is good, or none of it counts.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER_PERMISSIVE;
use evidence::{claims::DeviceId, tpm::EkKey};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use thiserror::Error;

use super::roots::is_pem;
use crate::{
    limits::{MAX_ALLOWED, MAX_OPERATOR_TEXT},
    store::Allowed,
};

/// What is wrong with such a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AllowError {
    /// No endorsement key.
    #[error(
        "this is not the public part of an endorsement key: a TPM2B_PUBLIC or TPMT_PUBLIC by the TCG default template \
         (`tpm2_createek -u FILE`, `tpm2_readpublic -f tss`), or a PEM SubjectPublicKeyInfo of RSA-2048, ECC P-256 or \
         ECC P-384 (`tpm2_readpublic -f pem`)"
    )]
    Key,
    /// A line of a list.
    #[error("line {line}: {why}; nothing was listed")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A list without a line, or with too many.
    #[error("the list has {0} ids; 1 to {MAX_ALLOWED} are taken at once, and nothing was listed")]
    Size(usize),
}

/// The key in a file: TPM2B_PUBLIC, TPMT_PUBLIC, or SubjectPublicKeyInfo in PEM or DER.
///
/// # Errors
/// [`AllowError::Key`] for anything else.
pub fn read_ek(bytes: &[u8]) -> Result<EkKey, AllowError> {
    if is_pem(bytes) {
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(bytes).map_err(|_| AllowError::Key)?;
        return EkKey::of_spki(&spki).ok_or(AllowError::Key);
    }
    EkKey::of_public_area(bytes).or_else(|| EkKey::of_spki(bytes)).ok_or(AllowError::Key)
}

/// A list of devices: `id` or `id,product` on each line. The first line may be a header; empty lines are passed over.
///
/// # Errors
/// [`AllowError`] names the first line that is wrong.
pub fn read_ids(text: &str) -> Result<Vec<Allowed>, AllowError> {
    let mut listed: Vec<Allowed> = Vec::new();
    let mut seen: BTreeMap<[u8; 32], usize> = BTreeMap::new();
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    for (line, content) in (1..).zip(text.lines()) {
        if content.trim().is_empty() || (line == 1 && is_header(content)) {
            continue;
        }
        let wrong = |why: String| AllowError::Line { line, why };
        let allowed = read_line(content).map_err(|why| wrong(why.to_owned()))?;
        if let Some(first) = seen.insert(allowed.digest, line) {
            return Err(wrong(format!("the id of line {first} again")));
        }
        listed.push(allowed);
    }
    if (1..=MAX_ALLOWED).contains(&listed.len()) { Ok(listed) } else { Err(AllowError::Size(listed.len())) }
}

fn is_header(line: &str) -> bool {
    let names: Vec<String> = line.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
    matches!(names.iter().map(String::as_str).collect::<Vec<_>>()[..], ["id"] | ["id", "product"])
}

fn read_line(line: &str) -> Result<Allowed, &'static str> {
    let (id, product) = line.split_once(',').map_or((line, None), |(id, product)| (id, Some(product.trim())));
    Ok(Allowed { digest: read_id(id.trim())?.0, product: product.map(read_product).transpose()? })
}

/// 64 hex digits.
///
/// # Errors
/// What is wrong.
pub fn read_id(text: &str) -> Result<DeviceId, &'static str> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    let id: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
    id.map(DeviceId).ok_or("a line is `id` or `id,product`, with a device id of 64 hex digits")
}

/// A product's name.
///
/// # Errors
/// What is wrong.
pub fn read_product(text: &str) -> Result<String, &'static str> {
    let legal = |c: char| !c.is_control() && c != '"' && c != ',';
    if (1..=MAX_OPERATOR_TEXT).contains(&text.len()) && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("a product is 1 to 512 bytes without commas, quotes and control characters")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use evidence::tpm::tpm2b;

    use super::*;

    fn vector(name: &str) -> Vec<u8> {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/ek").join(name)).unwrap()
    }

    #[test]
    fn a_key_is_the_same_in_every_form_that_tools_write() {
        for name in ["ek-ecc384.pub", "ek-rsa2048.pub"] {
            let area = vector(name);
            let key = EkKey::of_public_area(&area).unwrap();
            let base64 = data_encoding::BASE64.encode(&key.spki());
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
            for form in [area.clone(), tpm2b(evidence::tpm::without_size(&area)), key.spki(), pem.into_bytes()] {
                assert_eq!(read_ek(&form).unwrap(), key);
            }
        }
    }

    #[test]
    fn what_is_no_endorsement_key_is_refused() {
        let mut off_template = vector("ek-ecc384.pub");
        let attributes = off_template.len() - evidence::tpm::without_size(&off_template).len() + 7;
        off_template[attributes] ^= 4;
        for bad in [off_template, vector("ek-ecc384.crt"), vector("root.pem"), Vec::new(), b"nonsense".to_vec()] {
            assert_eq!(read_ek(&bad), Err(AllowError::Key));
        }
    }

    #[test]
    fn a_list_is_ids_with_or_without_product_and_perhaps_a_header() {
        let (a, b) = ("a1".repeat(32), "B2".repeat(32));
        for text in [
            format!("{a},acme/router\n{b}\n"),
            format!("\u{FEFF}ID, Product\r\n{a} , acme/router\r\n\r\n{b}"),
            format!("id\n{a},acme/router\n{b}\n"),
        ] {
            let expected = [
                Allowed { digest: [0xA1; 32], product: Some("acme/router".to_owned()) },
                Allowed { digest: [0xB2; 32], product: None },
            ];
            assert_eq!(read_ids(&text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn one_bad_line_is_named_and_spoils_the_list() {
        let good = "a1".repeat(32);
        for (bad, line) in [
            ("abcd".to_owned(), 2),
            (format!("{},p", "zz".repeat(32)), 2),
            (format!("{},", "b2".repeat(32)), 2),
            (format!("{},a,b", "b2".repeat(32)), 2),
            (format!("{},\"a\"", "b2".repeat(32)), 2),
            (format!("{},a\x1bb", "b2".repeat(32)), 2),
            (format!("{},{}", "b2".repeat(32), "p".repeat(513)), 2),
            (good.clone(), 2),
            ("id,product".to_owned(), 2),
            (format!("{}\n# comment", "b2".repeat(32)), 3),
        ] {
            let refused = read_ids(&format!("{good}\n{bad}\n")).unwrap_err();
            assert!(matches!(refused, AllowError::Line { line: at, .. } if at == line), "{bad:?}: {refused}");
        }
        assert_eq!(read_ids("id\n"), Err(AllowError::Size(0)));
        let many: String = (0..=MAX_ALLOWED).map(|n| format!("{n:064x}\n")).collect();
        assert_eq!(read_ids(&many), Err(AllowError::Size(MAX_ALLOWED + 1)));
    }
}
