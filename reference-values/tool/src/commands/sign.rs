//! `sign`: adds a signature to a release.

use reference_values::Unsignable;
use ring::rand::SystemRandom;

use super::count;
use crate::{cli::Sign, failure::Failure, files};

pub(crate) fn run(arguments: &Sign) -> Result<(), Failure> {
    let key = files::read_key(&arguments.key)?;
    let release = files::read_document(&arguments.file)?;
    let signed = release.sign(&key, arguments.role, &SystemRandom::new()).map_err(|error| match error {
        Unsignable::Crypto => Failure::Operation(error.to_string()),
        Unsignable::Twice(_) | Unsignable::TooMany(_) => {
            Failure::Usage(format!("{}: {error}", arguments.file.display()))
        }
    })?;
    files::replace(&arguments.output, &signed.encode())?;
    let (document, signatures) = (signed.document(), signed.signatures().len());
    let signatures = count(signatures, "signature", "signatures");
    let (product, name, role) = (document.product(), document.name(), arguments.role);
    files::print(&format!("{product} {name}: signed as {role} by key {}; {signatures} now\n", key.public().id()))
}
