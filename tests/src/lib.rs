//! What end-to-end tests, adversaries and benchmarks share: software TPMs and simulated devices.

pub mod deployment;
pub mod fleet;
pub mod judge;
pub mod population;
pub mod proxy;
pub mod site;
pub mod software;
pub mod software_ek;
pub mod swtpm;
