//! The program itself: what it prints when it is ready, and that the broker it started ends with it, however it ends.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::installation::Installation;

const LONG: Duration = Duration::from_secs(30);

/// Starts it, and waits until it is ready.
fn serve(installation: &Installation) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_verifier"))
        .arg("serve")
        .arg("--config")
        .arg(installation.dir.join("verifier.toml"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready: verifier v1, http://127.0.0.1:"), "{line}");
    child
}

fn listens(installation: &Installation) -> bool {
    TcpStream::connect(("127.0.0.1", installation.config.broker.port)).is_ok()
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// The broker is no child of this test, so nothing tells when it ends.
fn until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < LONG, "not in time");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_signal_ends_it_and_the_broker_in_order() {
    let installation = Installation::make();
    let mut child = serve(&installation);
    signal("-TERM", child.id());
    assert!(child.wait().unwrap().success());
    assert!(!listens(&installation));
    let saved: PathBuf = installation.dir.join("broker/data/mosquitto.db");
    assert!(saved.is_file(), "the broker had time to save its sessions");
}

#[test]
fn the_broker_ends_with_a_verifier_that_was_killed() {
    let installation = Installation::make();
    let mut child = serve(&installation);
    child.kill().unwrap();
    child.wait().unwrap();
    until(|| !listens(&installation));
}

#[test]
fn a_broker_that_was_killed_is_started_again() {
    let installation = Installation::make();
    let mut child = serve(&installation);
    let conf = installation.config.broker.mosquitto.display().to_string();
    let found = Command::new("pgrep").args(["-f", &format!("mosquitto -c {conf}")]).output().unwrap();
    let pid: u32 = String::from_utf8(found.stdout).unwrap().trim().parse().expect("one broker");
    signal("-KILL", pid);
    until(|| !listens(&installation));
    until(|| listens(&installation));
    signal("-TERM", child.id());
    assert!(child.wait().unwrap().success());
}
