//! `keygen`: makes a key to sign releases with.

use reference_values::SigningKey;
use ring::rand::SystemRandom;

use crate::{cli::Keygen, failure::Failure, files};

pub(crate) fn run(arguments: &Keygen) -> Result<(), Failure> {
    let pem = SigningKey::generate(&SystemRandom::new()).map_err(|error| Failure::Operation(error.to_string()))?;
    let key = SigningKey::from_pem(&pem).map_err(|error| Failure::Operation(error.to_string()))?;
    let public = arguments.out.with_extension("pub.pem");
    files::create_new(&public, 0o644, key.public().to_pem().as_bytes())?;
    files::create_new(&arguments.out, 0o600, pem.as_bytes()).inspect_err(|_| {
        // A public key without its private half is of no use.
        let _ = std::fs::remove_file(&public);
    })?;
    files::print(&format!("key {}: {}, {}\n", key.public().id(), arguments.out.display(), public.display()))
}
