//! What needs a real broker: mosquitto, as `verifier init` configures it, on a free port for each test.

mod acl;
mod epochs;
mod ingestion;
mod installation;
mod program;
