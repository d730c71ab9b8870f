//! `simulate-fleet` from the outside: its commands against a running verifier, and the books that it writes.
//! Needs `cargo build --workspace --bins` before.

use std::fs;

use anyhow::{Context as _, Result};
use devices::{
    deployment::{program, succeeded},
    site::Site,
};
use serde_json::Value;

const DEVICES: usize = 5;

/// Runs a command; what it says, and the books.
fn simulate(site: &Site, command: &[&str]) -> Result<(Value, Value)> {
    let ports = site.ports();
    let books = site.scratch().join("books.json");
    let output = program("simulate-fleet")?
        .args(command)
        .args(["--broker", &format!("127.0.0.1:{}", ports.devices)])
        .args(["--enrol-broker", &format!("127.0.0.1:{}", ports.enrolment)])
        .args(["--name", &site.name, "--devices", &DEVICES.to_string(), "--verifier"])
        .arg(&site.dir)
        .arg("--ca")
        .arg(site.ca_dir())
        .arg("--books")
        .arg(&books)
        .output()?;
    succeeded(&command.join(" "), &output)?;
    Ok((serde_json::from_slice(&output.stdout)?, serde_json::from_str(&fs::read_to_string(books)?)?))
}

#[test]
fn rounds_and_epochs_are_simulated_and_books_are_kept() -> Result<()> {
    let mut site = Site::lay_out(2)?;
    site.start_brokers()?;
    site.serve()?;
    let (said, books) = simulate(&site, &["run", "--rounds", "2"])?;
    assert_eq!((&said["enrolled"], &said["results"]), (&DEVICES.into(), &(2 * DEVICES).into()));
    for book in books.as_array().context("books")? {
        let digests = |what: &str, key: &str| -> Vec<Value> {
            book[what].as_array().into_iter().flatten().map(|entry| entry[key].clone()).collect()
        };
        assert_eq!(digests("evidence", "digest"), digests("results", "evidence"));
    }

    let (said, books) = simulate(&site, &["follow", "--epochs", "2"])?;
    assert_eq!(said["enrolled"], DEVICES);
    let books = books.as_array().context("books")?;
    assert!(books.iter().all(|book| book["epochs"].as_u64() > Some(2)), "{books:?}");
    let total = site.get("/v1/devices")?["total"].clone();
    assert_eq!(total, 2 * DEVICES, "each run has devices of its own");
    Ok(())
}
