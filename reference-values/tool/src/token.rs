//! A signing key that stays in its token (PKCS #11): in, a URI (RFC 7512) and messages; out, the public key and signatures.

use std::path::{Path, PathBuf};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::Error,
    mechanism::Mechanism,
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use reference_values::PublicKey;
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::{failure::Failure, files};

/// A PIN is a few characters.
const MAX_PIN: usize = 1024;

/// An open session, and the key in it.
pub(crate) struct Token {
    session: Session,
    key: ObjectHandle,
    public: PublicKey,
}

impl Token {
    /// Opens the token that the URI names, and finds the one key in it.
    pub(crate) fn open(uri: &str, module: Option<&Path>) -> Result<Self, Failure> {
        let uri = Uri::parse(uri)?;
        let missing =
            || Failure::Usage("no PKCS #11 module: give --pkcs11-module or module-path in the URI".to_owned());
        let module = module.map(Path::to_owned).or_else(|| uri.module.clone()).ok_or_else(missing)?;
        let context = Pkcs11::new(&module).map_err(|error| Failure::operation("load", &module, error))?;
        let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        context.initialize(arguments).map_err(|error| failed("start the module", &error))?;
        let slot = uri.slot(&context)?;
        let session = context.open_ro_session(slot).map_err(|error| failed("open the token", &error))?;
        if let Some(pin) = uri.pin()? {
            session.login(UserType::User, Some(&pin)).map_err(|error| failed("log in to the token", &error))?;
        }
        let key = uri.find(&session, ObjectClass::PRIVATE_KEY)?;
        let public = public_key(&session, uri.find(&session, ObjectClass::PUBLIC_KEY)?)?;
        Ok(Self { session, key, public })
    }

    /// The public key, as the token tells it.
    pub(crate) const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// r ‖ s over the SHA-256 of the message (PKCS #11 §2.3.1).
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let hash = digest(&SHA256, message);
        self.session
            .sign(&Mechanism::Ecdsa, self.key, hash.as_ref())
            .map_err(|error| failed("sign with the token's key", &error))
    }
}

fn failed(doing: &str, error: &Error) -> Failure {
    Failure::Operation(format!("cannot {doing}: {error}"))
}

/// CKA_EC_POINT is the point within an OCTET STRING of DER, and some tokens tell it bare.
fn public_key(session: &Session, key: ObjectHandle) -> Result<PublicKey, Failure> {
    let found = session
        .get_attributes(key, &[AttributeType::EcPoint])
        .map_err(|error| failed("read the public key from the token", &error))?;
    let point = found.into_iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(point) => Some(point),
        _ => None,
    });
    let point = point.unwrap_or_default();
    let bare = point.strip_prefix(&[0x04, 0x41]).unwrap_or(&point);
    PublicKey::from_sec1(bare).map_err(|error| Failure::Usage(format!("the token's key: {error}")))
}

/// What is used of a URI.
#[derive(Debug, Default)]
struct Uri {
    token: Option<String>,
    serial: Option<String>,
    object: Option<String>,
    id: Option<Vec<u8>>,
    module: Option<PathBuf>,
    pin_source: Option<PathBuf>,
    pin_value: Option<Zeroizing<String>>,
}

impl Uri {
    fn parse(text: &str) -> Result<Self, Failure> {
        // What is wrong is told without the rest: a PIN may stand in it.
        let wrong = |what: &str| {
            Failure::Usage(format!("--pkcs11: {what}; as pkcs11:token=releases;object=maker?pin-source=FILE"))
        };
        let rest = text.strip_prefix("pkcs11:").ok_or_else(|| wrong("the URI begins with `pkcs11:`"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self::default();
        let parts = path.split(';').chain(query.split('&')).filter(|part| !part.is_empty());
        for part in parts {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong("parts are NAME=VALUE"))?;
            let bytes = decode(value).ok_or_else(|| wrong("a `%` is followed by two hexadecimal digits"))?;
            let bytes = Zeroizing::new(bytes);
            let text = || String::from_utf8(bytes.to_vec()).map_err(|_| wrong("a value is not UTF-8"));
            match name {
                "token" => uri.token = Some(text()?),
                "serial" => uri.serial = Some(text()?),
                "object" => uri.object = Some(text()?),
                "id" => uri.id = Some(bytes.to_vec()),
                "type" if value == "private" => {}
                "module-path" => uri.module = Some(text()?.into()),
                "pin-source" => uri.pin_source = Some(text()?.trim_start_matches("file:").into()),
                "pin-value" => uri.pin_value = Some(Zeroizing::new(text()?)),
                _ => return Err(wrong(&format!("`{}` is not supported", name.escape_default()))),
            }
        }
        match uri.object.is_none() && uri.id.is_none() {
            true => Err(wrong("`object` or `id` must name the key")),
            false => Ok(uri),
        }
    }

    /// The one token that is meant.
    fn slot(&self, context: &Pkcs11) -> Result<Slot, Failure> {
        let slots = context.get_slots_with_token().map_err(|error| failed("list the tokens", &error))?;
        let mut found = Vec::new();
        let mut seen = Vec::new();
        for slot in slots {
            let info = context.get_token_info(slot).map_err(|error| failed("look at a token", &error))?;
            if !info.token_initialized() {
                continue;
            }
            let is = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is.trim_end());
            if is(&self.token, info.label()) && is(&self.serial, info.serial_number()) {
                found.push(slot);
            }
            seen.push(info.label().trim_end().to_owned());
        }
        match found.as_slice() {
            [slot] => Ok(*slot),
            [] => Err(Failure::Usage(format!("--pkcs11: no such token; there are: {}", seen.join(", ")))),
            _ => Err(Failure::Usage("--pkcs11: several tokens fit; name one by `token` or `serial`".to_owned())),
        }
    }

    fn pin(&self) -> Result<Option<AuthPin>, Failure> {
        if let Some(pin) = &self.pin_value {
            return Ok(Some(AuthPin::new(pin.as_str().into())));
        }
        let Some(path) = &self.pin_source else { return Ok(None) };
        let bytes = Zeroizing::new(files::read(path, MAX_PIN)?);
        let pin = std::str::from_utf8(&bytes).map_err(|_| Failure::Usage(format!("{}: no PIN", path.display())))?;
        Ok(Some(AuthPin::new(pin.trim_end_matches(['\r', '\n']).into())))
    }

    fn find(&self, session: &Session, class: ObjectClass) -> Result<ObjectHandle, Failure> {
        let mut wanted = vec![Attribute::Class(class)];
        wanted.extend(self.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
        wanted.extend(self.id.as_ref().map(|id| Attribute::Id(id.clone())));
        let found = session.find_objects(&wanted).map_err(|error| failed("look for the key", &error))?;
        match found.as_slice() {
            [key] => Ok(*key),
            [] => Err(Failure::Usage(format!("--pkcs11: the token has no {class} like that (is the PIN missing?)"))),
            _ => Err(Failure::Usage(format!("--pkcs11: several of {class} fit; name one by `id`"))),
        }
    }
}

/// Percent-encoding (RFC 3986 §2.1).
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_token_key_and_pin() {
        let uri =
            Uri::parse("pkcs11:token=my%20releases;object=maker;id=%01%ff?pin-source=file:/run/pin&module-path=/m.so");
        let uri = uri.unwrap();
        assert_eq!(uri.token.as_deref(), Some("my releases"));
        assert_eq!(uri.id.as_deref(), Some(&[1, 255][..]));
        assert_eq!(uri.pin_source.as_deref(), Some(Path::new("/run/pin")));
        assert_eq!(uri.module.as_deref(), Some(Path::new("/m.so")));
    }

    #[test]
    fn what_is_wrong_is_told_without_the_pin() {
        for wrong in [
            "token=a",
            "pkcs11:token=a?pin-value=secret",
            "pkcs11:object=a;colour=red?pin-value=secret",
            "pkcs11:object=%zz?pin-value=secret",
            "pkcs11:object?pin-value=secret",
        ] {
            let said = Uri::parse(wrong).unwrap_err().to_string();
            assert!(said.contains("--pkcs11") && !said.contains("secret"), "{said}");
        }
    }
}
