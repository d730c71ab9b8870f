//! The verifier: MQTT in; appraisal, store, HTTP and signed results out.

pub mod identity;
pub mod limits;
pub mod store;
