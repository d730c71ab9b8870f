//! The verifier: MQTT in; appraisal, store, HTTP and signed results out.

#![forbid(unsafe_code)]

pub mod broker;
pub mod broker_access;
pub mod certificates;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod enrol;
pub mod epochs;
pub mod http;
pub mod identity;
pub mod ingest;
pub mod init;
pub mod inspect;
pub mod issuer;
pub mod keys;
pub mod limits;
pub mod metrics;
pub mod mqtt;
pub mod rate;
pub mod reappraisal;
pub mod recheck;
pub mod references;
pub mod serve;
pub mod store;
pub mod unannounced;
pub mod upkeep;
