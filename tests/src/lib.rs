//! What end-to-end tests, adversaries and benchmarks share: software TPMs and simulated devices.

pub mod swtpm;
