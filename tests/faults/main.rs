//! Faults: the real programs, and what ends, cuts off, fills up or slows down the things that they run on. Whatever happens,
//! nothing that a result acknowledged is lost, nothing is judged twice, no device is contraindicated that is as it should
//! be, and all goes on without anyone's hands. Each test is named after what must hold.
//!
//! Needs root (namespaces, a file system of its own for the store), and `cargo build --workspace --bins` before.

mod attester;
mod brokers;
mod clock;
mod device;
mod lineage;
mod network;
mod steps;
mod store;
mod tpm_relay;
mod two_verifiers;
mod verifier;

use std::time::Duration;

type Done = anyhow::Result<()>;

/// How long a fleet may take for something: far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(60);
