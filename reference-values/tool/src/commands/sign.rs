//! `sign`: adds a signature to a document, by a key in a file or in a token.

use reference_values::Unsignable;
use ring::rand::SystemRandom;

use super::count;
use crate::{cli::Sign, failure::Failure, files, token::Token};

pub(crate) fn run(arguments: &Sign) -> Result<(), Failure> {
    let document = files::read_document(&arguments.file)?;
    let refused = |error: Unsignable| match error {
        Unsignable::Crypto | Unsignable::NotOfThisKey => Failure::Operation(error.to_string()),
        Unsignable::Twice(_) | Unsignable::TooMany(_) => {
            Failure::Usage(format!("{}: {error}", arguments.file.display()))
        }
    };
    let (signed, key) = match (&arguments.key, &arguments.pkcs11) {
        (Some(path), _) => {
            let key = files::read_key(path)?;
            let id = key.public().id();
            (document.sign(&key, arguments.role, &SystemRandom::new()).map_err(refused)?, id)
        }
        (None, Some(uri)) => {
            let token = Token::open(uri, arguments.pkcs11_module.as_deref())?;
            let sign = |message: &[u8]| token.sign(message).map_err(SigningError::Token);
            let signed = document.sign_with(token.public(), arguments.role, sign);
            let failed = |error| match error {
                SigningError::Token(failure) => failure,
                SigningError::Refused(error) => refused(error),
            };
            (signed.map_err(failed)?, token.public().id())
        }
        (None, None) => return Err(Failure::Usage("--key or --pkcs11 is expected".to_owned())),
    };
    files::replace(&arguments.output, &signed.encode())?;
    let (document, signatures) = (signed.document(), signed.signatures().len());
    let signatures = count(signatures, "signature", "signatures");
    let (product, name, role) = (document.product(), document.name(), arguments.role);
    files::print(&format!("{product} {name}: signed as {role} by key {key}; {signatures} now\n"))
}

/// Why there is no signature.
enum SigningError {
    Refused(Unsignable),
    Token(Failure),
}

impl From<Unsignable> for SigningError {
    fn from(error: Unsignable) -> Self {
        Self::Refused(error)
    }
}
