//! What end-to-end tests, adversaries and benchmarks share: software TPMs and simulated devices.

pub mod deployment;
pub mod judge;
pub mod software;
pub mod software_ek;
pub mod swtpm;
