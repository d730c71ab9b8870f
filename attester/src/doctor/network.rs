//! Configuration, brokers, keys and registration.

use std::{
    io::{self, ErrorKind},
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use attester::config::{Broker, Config};
use data_encoding::HEXLOWER;
use rustls::{ClientConnection, pki_types::ServerName};

use super::Line;
use crate::{
    enrolment::{Kept, kept},
    link::tls,
    pinned::{self, Pinned},
    state::StateDir,
    status::{timestamp, unix_now},
    told,
};

/// Time for a broker to answer.
const WITHIN: Duration = Duration::from_secs(10);
/// Time in which a broker that refuses our certificate says so: TLS 1.3 tells after the handshake.
const REFUSES_WITHIN: Duration = Duration::from_secs(2);
/// Keys that expire sooner should have been replaced by now.
const SOON: u64 = 7 * 24 * 3600;
/// How far this device's clock may be behind a verifier's.
const BEHIND: u64 = 3600;

/// Whether the configuration is enough to attest.
pub(super) fn configuration(config: &Config) -> Line {
    match pinned::check(config) {
        Ok(verifiers) => {
            let (verifiers, brokers) = (verifiers.len(), config.brokers.len());
            Line::ok("configuration", format!("{verifiers} pinned verifiers at {brokers} brokers"))
        }
        Err(error) => Line::fail("configuration", error.to_string(), "see the verifier's `attester.toml`"),
    }
}

/// All lines about what is outside.
pub(super) fn look(config: &Config, state: Option<&StateDir>) -> Vec<Line> {
    let verifiers = state.map(|state| Pinned::all(config, state)).and_then(Result::ok);
    let verifiers = verifiers.or_else(|| pinned::check(config).ok()).unwrap_or_default();
    let mut lines = Vec::new();
    for (at, broker) in config.brokers.iter().enumerate() {
        let kept = match kept(broker, at, state) {
            Ok(kept) => kept,
            Err(error) => {
                lines.push(Line::fail(name(broker), told(&error), "correct `[broker]`, or remove the file"));
                continue;
            }
        };
        lines.push(reach(broker, &kept));
        for verifier in verifiers.iter().filter(|verifier| verifier.broker == at) {
            let registered = kept.verifiers.contains(&HEXLOWER.encode(&verifier.id.0));
            lines.push(registration(verifier, registered));
            lines.push(keys(verifier, registered, unix_now().as_secs()));
        }
    }
    lines
}

fn name(broker: &Broker) -> String {
    format!("broker {}", broker.place())
}

/// TLS and no more.
fn reach(broker: &Broker, kept: &Kept) -> Line {
    let Some(credentials) = &kept.credentials else {
        return Line::fail(
            name(broker),
            "this device has no certificate for it",
            "set `certificate` and `key` in `[broker]` to what the verifier's `init` wrote (broker/enrol.pem, enrol.key)",
        );
    };
    let (host, port) = if kept.own { (broker.host.clone(), broker.port) } else { broker.enrolment.clone() };
    let whose = if kept.own { "this device's certificate" } else { "the certificate to enrol with" };
    match tls(broker, credentials).and_then(|config| handshake(&host, port, config)) {
        Ok(()) => Line::ok(name(broker), format!("{host}:{port} proves who it is, and takes {whose}")),
        Err(error) => Line::fail(
            name(broker),
            format!("{host}:{port}: {}", told(&error)),
            "does it run, is there a network, is `broker.ca` the CA of its certificate, is its name in it, has this \
             device's certificate expired (`attester enrol`), is the clock right?",
        ),
    }
}

fn handshake(host: &str, port: u16, config: rustls::ClientConfig) -> Result<()> {
    let server = ServerName::try_from(host.to_owned()).with_context(|| format!("`{host}` is no host name"))?;
    let mut connection = ClientConnection::new(Arc::new(config), server)?;
    let mut stream = connect(host, port).context("does not answer")?;
    stream.set_read_timeout(Some(WITHIN)).and_then(|()| stream.set_write_timeout(Some(WITHIN)))?;
    connection.complete_io(&mut stream).context("no TLS connection")?;
    stream.set_read_timeout(Some(REFUSES_WITHIN))?;
    loop {
        match connection.read_tls(&mut stream) {
            Ok(0) => return Err(anyhow!("it closed the connection: it refuses the certificate")),
            // Tickets for the next connection, or the refusal.
            Ok(_) => connection.process_new_packets().map(|_| ()).context("it refuses the certificate")?,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("it broke the connection"),
        }
    }
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "its name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, WITHIN) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn registration(verifier: &Pinned, registered: bool) -> Line {
    let name = format!("registration {}", verifier.name);
    if registered {
        return Line::ok(name, "this device is registered");
    }
    Line::warn(name, "this device is not registered", "`attester enrol`, or start the service and see its log")
}

/// Keys as they were kept. `now`: by this device's clock, for people only.
fn keys(verifier: &Pinned, registered: bool, now: u64) -> Line {
    let name = format!("keys {}", verifier.name);
    let Some((sequence, not_after)) = verifier.keys() else {
        let remedy = "does the verifier run, is it at this broker, is the pinned key its root (verifier.pub.pem), may this \
                      device read cs/1/keys/# there?";
        return if registered {
            Line::fail(name, "they have not come: nothing that this verifier says counts", remedy)
        } else {
            Line::warn(name, "they have not come yet", remedy)
        };
    };
    let text = format!("sequence {sequence}, until {}", timestamp(not_after));
    if verifier.time().saturating_sub(BEHIND) > now {
        let text = format!("{text}; the verifier's clock said {}", timestamp(verifier.time()));
        return Line::warn(name, text, "this device's clock is behind: set it (NTP)");
    }
    if not_after < now.saturating_add(SOON) {
        return Line::warn(
            name,
            text,
            "they end soon or have ended: the verifier's operator has to run `verifier keys rotate`",
        );
    }
    Line::ok(name, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::Level,
        pinned::testing::{NOT_AFTER, SEQUENCE, Verifier},
    };

    #[test]
    fn keys_that_never_came_fail_where_the_device_is_registered() {
        let pinned = Verifier::new().without_keys("v1");
        assert_eq!(keys(&pinned, true, SEQUENCE).level, Level::Fail);
        assert_eq!(keys(&pinned, false, SEQUENCE).level, Level::Warn);
    }

    #[test]
    fn keys_are_told_with_their_end_and_a_clock_behind_them_is_too() {
        let mut pinned = Verifier::new().pinned("v1");
        let good = keys(&pinned, true, SEQUENCE);
        assert!(good.level == Level::Ok && good.text.contains(&SEQUENCE.to_string()));
        assert_eq!(keys(&pinned, true, NOT_AFTER - SOON / 2).level, Level::Warn);
        pinned.saw_time(SEQUENCE + 2 * BEHIND).unwrap();
        assert!(keys(&pinned, true, SEQUENCE).remedy.unwrap().contains("clock"));
    }

    #[test]
    fn a_broker_that_nobody_is_at_is_named_with_its_place() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = connect("127.0.0.1", free).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}
