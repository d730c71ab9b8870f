//! The `verifier` program. All of it is in the library, where tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    verifier::cli::run()
}
