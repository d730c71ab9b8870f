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

/// Whether the devices' broker and the one of who enrols do.
fn listen(installation: &Installation) -> (bool, bool) {
    let listens = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
    (listens(installation.ports.0), listens(installation.ports.1))
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
fn a_signal_ends_it_and_the_brokers_in_order() {
    let installation = Installation::make();
    let mut child = serve(&installation);
    signal("-TERM", child.id());
    assert!(child.wait().unwrap().success());
    assert_eq!(listen(&installation), (false, false));
    let saved: PathBuf = installation.dir.join("broker/data/mosquitto.db");
    assert!(saved.is_file(), "the broker had time to save its sessions");
}

#[test]
fn the_brokers_end_with_a_verifier_that_was_killed() {
    let installation = Installation::make();
    let mut child = serve(&installation);
    child.kill().unwrap();
    child.wait().unwrap();
    until(|| listen(&installation) == (false, false));
}

#[test]
fn a_broker_that_was_killed_is_started_again() {
    let installation = Installation::make();
    let mut child = serve(&installation);
    until(|| listen(&installation) == (true, true));
    let broker = &installation.config.broker;
    for (conf, dead) in [(&broker.mosquitto, (false, true)), (&broker.enrolment, (true, false))] {
        let conf = conf.display();
        let found = Command::new("pgrep").args(["-f", &format!("mosquitto -c {conf}")]).output().unwrap();
        let pid: u32 = String::from_utf8(found.stdout).unwrap().trim().parse().expect("one broker");
        signal("-KILL", pid);
        until(|| listen(&installation) == dead);
        until(|| listen(&installation) == (true, true));
    }
    signal("-TERM", child.id());
    assert!(child.wait().unwrap().success());
}
