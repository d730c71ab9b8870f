//! The device program's lower half: TPM, boot log, measurement of what runs, runtime log, configuration. In go the
//! device's own files and processes; out come measurements that the TPM vouches for. Speaks to nobody: the program on
//! top of it does.

pub mod boot_log;
pub mod config;
pub mod runtime_log;
pub mod sweep;
pub mod tpm;
