//! A relay between a device and its TPM that stops at a chosen command: so that a program can be ended there, not somewhere
//! near. Speaks swtpm's protocol: commands on one port, as they are; control messages on the next.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use anyhow::{Context as _, Result};
use devices::swtpm::free_port;

/// TPM2_PCR_Extend (TPM 2.0 Part 2 §6.5.2).
const PCR_EXTEND: u32 = 0x182;
/// Tag, size, and command or response code.
const HEADER: usize = 10;
/// Pairs of ports that are tried.
const TRIES: usize = 64;

/// Where to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Before the TPM gets the command.
    Before,
    /// When the TPM has done it; the response goes nowhere.
    After,
}

#[derive(Debug)]
struct Trap {
    /// Extends that pass before.
    pass: u32,
    stop: Stop,
}

/// See the module.
pub(crate) struct Relay {
    pub(crate) tcti: String,
    trap: Arc<Mutex<Option<Trap>>>,
    stopped: Receiver<()>,
}

impl Relay {
    /// To the TPM at `tcti`, which [`devices::swtpm::Swtpm`] made.
    pub(crate) fn to(tcti: &str) -> Result<Self> {
        let to: u16 = tcti.rsplit_once("port=").context("a port")?.1.parse()?;
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let pair = || {
            let port = free_port().ok()?;
            Some((port, bind(port).ok()?, bind(port + 1).ok()?))
        };
        let (port, commands, control) = (0..TRIES).find_map(|_| pair()).context("no two ports are free")?;
        let trap = Arc::new(Mutex::new(None));
        let (tell, stopped) = channel();
        let armed = Arc::clone(&trap);
        serve(commands, to, move |client, tpm| relay(client, tpm, &armed, &tell));
        serve(control, to + 1, |mut client, mut tpm| {
            let (mut back, mut answers) = (client.try_clone()?, tpm.try_clone()?);
            thread::spawn(move || io::copy(&mut answers, &mut back));
            io::copy(&mut client, &mut tpm)?;
            tpm.shutdown(std::net::Shutdown::Write)
        });
        Ok(Self { tcti: format!("swtpm:host=127.0.0.1,port={port}"), trap, stopped })
    }

    /// Stops at the next extend after `pass` others.
    pub(crate) fn stop_at_extend(&self, pass: u32, stop: Stop) {
        *self.trap.lock().unwrap_or_else(PoisonError::into_inner) = Some(Trap { pass, stop });
    }

    /// Says when it has stopped: the device waits for the TPM from then on, until it is ended.
    pub(crate) const fn stopped(&self) -> &Receiver<()> {
        &self.stopped
    }
}

/// Each connection in a thread of its own.
fn serve(
    listener: TcpListener,
    to: u16,
    each: impl Fn(TcpStream, TcpStream) -> io::Result<()> + Send + Sync + 'static,
) {
    let each = Arc::new(each);
    thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            let each = Arc::clone(&each);
            thread::spawn(move || each(client, TcpStream::connect((Ipv4Addr::LOCALHOST, to))?));
        }
    });
}

fn relay(mut client: TcpStream, mut tpm: TcpStream, trap: &Mutex<Option<Trap>>, tell: &Sender<()>) -> io::Result<()> {
    loop {
        let command = message(&mut client)?;
        let stop = (code(&command) == PCR_EXTEND).then(|| sprung(trap)).flatten();
        if stop != Some(Stop::Before) {
            tpm.write_all(&command)?;
            let response = message(&mut tpm)?;
            if stop.is_none() {
                client.write_all(&response)?;
                continue;
            }
        }
        // A test that has seen enough listens no more.
        tell.send(()).ok();
        // Until whoever waits for the response is gone.
        io::copy(&mut client, &mut io::sink())?;
        return Ok(());
    }
}

fn sprung(trap: &Mutex<Option<Trap>>) -> Option<Stop> {
    let mut trap = trap.lock().unwrap_or_else(PoisonError::into_inner);
    match trap.as_mut()? {
        Trap { pass: 0, stop } => {
            let stop = *stop;
            *trap = None;
            Some(stop)
        }
        Trap { pass, .. } => {
            *pass -= 1;
            None
        }
    }
}

fn message(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; HEADER];
    from.read_exact(&mut message)?;
    let size = u32::from_be_bytes([message[2], message[3], message[4], message[5]]);
    message.resize((size as usize).clamp(HEADER, 8192), 0);
    from.read_exact(&mut message[HEADER..])?;
    Ok(message)
}

fn code(message: &[u8]) -> u32 {
    u32::from_be_bytes([message[6], message[7], message[8], message[9]])
}
