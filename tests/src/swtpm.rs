//! A software TPM for tests: in goes nothing, out comes a running `swtpm` with endorsement keys (RSA-2048 and ECC P-384)
//! whose certificates a CA of its own has signed. It is killed, and its folder removed, when the value is dropped.
//!
//! The TPM serves one client at a time and has no resource manager: flush what you load, and don't share one between
//! tests that run side by side.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

/// How long swtpm may take to listen: it needs milliseconds, a machine under load a little more.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);
/// Where ports are drawn from: below those that the kernel hands out for outgoing connections.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// How many pairs of ports are tried: on a machine that runs tests a few hundred are taken.
const PORT_TRIES: usize = 64;

/// A running software TPM.
#[derive(Debug)]
pub struct Swtpm {
    /// What `TPM2TOOLS_TCTI`, `tcti` in the attester's configuration and `tss-esapi` take.
    pub tcti: String,
    /// Folder of the CA that signed the EK certificates, with its keys.
    pub ca_dir: PathBuf,
    /// PEM certificates to trust: the issuing CA, which no NV index of this TPM holds, and the root above it.
    pub roots: Vec<PathBuf>,
    /// DER EK certificates as they are in NV: RSA-2048 (0x01C00002), then ECC P-384 (0x01C00016).
    pub ek_certificates: Vec<PathBuf>,
    /// Commands; the next port is the control channel's, where libtss2 looks for it.
    port: u16,
    process: Option<Child>,
    dir: TempDir,
}

impl Swtpm {
    /// Makes a TPM with EKs and certificates, and starts it. Takes a second or two: two RSA-3072 keys for the CA.
    ///
    /// # Panics
    /// Where `swtpm` or `swtpm-tools` are missing, or refuse: a test can't go on without its TPM.
    #[must_use]
    pub fn start() -> Self {
        Self::try_start().expect("a software TPM (Debian: swtpm, swtpm-tools) starts")
    }

    /// Makes a TPM whose maker certified nothing, and starts it: no EK certificate in NV.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[must_use]
    pub fn start_uncertified() -> Self {
        Self::manufactured(&["--tpm2", "--overwrite", "--pcr-banks", "sha256"]).expect("a software TPM starts")
    }

    /// [`Self::start`] for programs that report errors.
    ///
    /// # Errors
    /// Where `swtpm` or `swtpm-tools` are missing, or refuse.
    pub fn try_start() -> Result<Self> {
        Self::manufactured(&["--tpm2", "--create-ek-cert", "--overwrite", "--pcr-banks", "sha256"])
    }

    fn manufactured(by: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("swtpm-").tempdir().context("cannot make a folder for the TPM")?;
        let ca_dir = dir.path().join("ca");
        let config = write_ca_config(&ca_dir)?;
        manufacture(dir.path(), &config, by)?;
        let roots = ["issuercert.pem", "swtpm-localca-rootca-cert.pem"].map(|name| ca_dir.join(name)).to_vec();
        let ek_certificates = ["ek-rsa2048.crt", "ek-secp384r1.crt"].map(|name| dir.path().join(name)).to_vec();
        let mut tpm = Self { tcti: String::new(), ca_dir, roots, ek_certificates, port: 0, process: None, dir };
        for _ in 0..PORT_TRIES {
            tpm.port = draw_port();
            tpm.tcti = format!("swtpm:host=127.0.0.1,port={}", tpm.port);
            // Another program may take a port between the look and the use of it.
            if is_free(tpm.port) && is_free(tpm.port + 1) && tpm.power_on().is_ok() {
                return Ok(tpm);
            }
        }
        tpm.power_on().map(|()| tpm)
    }

    /// Folder of the TPM, removed with it; state and CA are in it, and a test may put its files there.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Power off and on again: PCRs, transient keys and sessions are gone, NV and seeds stay, resetCount rises.
    ///
    /// # Errors
    /// Where swtpm does not come back.
    pub fn power_cycle(&mut self) -> Result<()> {
        self.power_off();
        self.power_on()
    }

    /// Kills swtpm, as a power cut would.
    pub fn power_off(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended already: then there is nothing to kill.
            drop(process.kill());
            drop(process.wait());
        }
    }

    fn power_on(&mut self) -> Result<()> {
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state(self.dir.path()).display()))
            .arg("--server")
            .arg(format!("type=tcp,bindaddr=127.0.0.1,port={}", self.port))
            .arg("--ctrl")
            .arg(format!("type=tcp,bindaddr=127.0.0.1,port={}", self.port + 1))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start swtpm; Debian: apt-get install swtpm")?;
        self.process = Some(process);
        self.wait_until_listening(self.port)?;
        self.wait_until_listening(self.port + 1)
    }

    fn wait_until_listening(&mut self, port: u16) -> Result<()> {
        let deadline = Instant::now() + LISTENS_WITHIN;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = self.process.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("swtpm ended with {status} before it listened on port {port}");
            }
            ensure!(Instant::now() < deadline, "swtpm does not listen on port {port}");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// A port of the loopback interface that nobody uses at the moment, and that the kernel hands out to nobody.
///
/// # Errors
/// Where none is found.
pub fn free_port() -> Result<u16> {
    (0..PORT_TRIES).map(|_| draw_port()).find(|port| is_free(*port)).context("no port is free")
}

fn draw_port() -> u16 {
    let draw = RandomState::new().hash_one(()) % u64::from(PORTS.end - PORTS.start);
    PORTS.start + u16::try_from(draw).unwrap_or(0)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn state(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// Configuration of `swtpm_setup` and `swtpm_localca` with everything in `ca_dir`, so that nothing of the machine's own
/// CA (/var/lib/swtpm-localca) is read or written. Returns the path of the former.
fn write_ca_config(ca_dir: &Path) -> Result<PathBuf> {
    let here = ca_dir.display();
    let files = [
        (
            "localca.conf",
            format!(
                "statedir = {here}\nsigningkey = {here}/signkey.pem\n\
                 issuercert = {here}/issuercert.pem\ncertserial = {here}/certserial\n"
            ),
        ),
        (
            "localca.options",
            "--platform-manufacturer Countersign\n--platform-version 1\n--platform-model test\n".to_owned(),
        ),
        (
            "setup.conf",
            format!(
                "create_certs_tool=/usr/bin/swtpm_localca\ncreate_certs_tool_config={here}/localca.conf\n\
                 create_certs_tool_options={here}/localca.options\nactive_pcr_banks=sha256\n"
            ),
        ),
    ];
    fs::create_dir(ca_dir).with_context(|| format!("cannot make {here}"))?;
    for (name, content) in files {
        fs::write(ca_dir.join(name), content).with_context(|| format!("cannot write {here}/{name}"))?;
    }
    Ok(ca_dir.join("setup.conf"))
}

/// What a TPM's maker does: seeds, EKs, and their certificates into NV.
fn manufacture(dir: &Path, config: &Path, by: &[&str]) -> Result<()> {
    fs::create_dir(state(dir)).context("cannot make a folder for the TPM's state")?;
    let done = Command::new("swtpm_setup")
        .args(by)
        .arg("--tpmstate")
        .arg(state(dir))
        .arg("--config")
        .arg(config)
        .arg("--write-ek-cert-files")
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .context("cannot start swtpm_setup; Debian: apt-get install swtpm-tools")?;
    let said = String::from_utf8_lossy(&done.stdout);
    ensure!(done.status.success(), "swtpm_setup failed with {}:\n{said}", done.status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tpm_of_its_own_listens_has_certificates_and_survives_a_power_cycle() {
        let mut tpm = Swtpm::start();
        tpm.power_cycle().unwrap();
        let folder = tpm.dir().to_owned();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, tpm.port)).is_ok());
        assert!(tpm.roots.iter().chain(&tpm.ek_certificates).all(|file| file.is_file()));
        drop(tpm);
        assert!(!folder.exists());
    }
}
