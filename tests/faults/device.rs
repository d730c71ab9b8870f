//! A real device: `attester run` on a software TPM, in a namespace of its own where programs can be started.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use devices::{
    deployment::program,
    site::{Site, eventually},
    swtpm::Swtpm,
};
use evidence::pcr::sha256;
use tempfile::TempDir;

use crate::Done;

/// Starts the attester, and each program whose path is written to its input.
const DEVICE: &str = "\"$0\" run --config \"$1\" & while read -r path; do \"$path\" 600 & done; wait";

/// See the module.
pub(crate) struct Device {
    shell: Child,
    scratch: TempDir,
    _tpm: Swtpm,
}

impl Device {
    /// One for these verifiers, each to be reached at this port; none of them runs yet.
    pub(crate) fn start(verifiers: &[(&Site, u16)]) -> Result<Self> {
        let (scratch, tpm) = (tempfile::tempdir()?, Swtpm::try_start()?);
        let mut config = format!(
            "tcti = {:?}\nstate_dir = {:?}\nboot_log = \"/nonexistent\"\nima_log = \"/nonexistent\"\nsweep_seconds = 1\n",
            tpm.tcti,
            scratch.path().join("state"),
        );
        for (site, port) in verifiers {
            trust(site, &tpm)?;
            config += &verifier(site, *port);
        }
        let file = scratch.path().join("attester.toml");
        fs::write(&file, config)?;
        let mut shell = Command::new("unshare");
        shell.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", DEVICE]);
        shell.arg(program("attester")?.get_program()).arg(&file);
        let log = fs::File::create(scratch.path().join("attester.log"))?;
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Self { shell, scratch, _tpm: tpm })
    }

    /// Runs a program that was never seen before; its digest.
    pub(crate) fn run(&mut self, name: &str) -> Result<String> {
        let path = self.scratch.path().join(name);
        let content = [fs::read("/bin/sleep")?, name.as_bytes().to_vec()].concat();
        fs::write(&path, &content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        writeln!(self.shell.stdin.as_mut().context("a pipe")?, "{}", path.display())?;
        Ok(HEXLOWER.encode(&sha256(&content)))
    }

    /// Waits until the verifier knows that a program runs.
    pub(crate) fn is_known_to_run(&self, program: &str, site: &Site) -> Done {
        let known = || is_known(program, site);
        eventually(&format!("{} knows", site.name), known)
            .with_context(|| fs::read_to_string(self.scratch.path().join("attester.log")).unwrap_or_default())
    }
}

/// Whether the verifier knows that a program runs.
pub(crate) fn is_known(program: &str, site: &Site) -> Result<bool> {
    Ok(site.get(&format!("/v1/devices?running={program}"))?["total"] == 1)
}

impl Drop for Device {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to kill.
        drop(self.shell.kill());
        drop(self.shell.wait());
    }
}

/// Reference values are read when it starts.
fn trust(site: &Site, tpm: &Swtpm) -> Done {
    for (number, root) in tpm.roots.iter().enumerate() {
        fs::copy(root, site.dir.join(format!("ek_roots/software/swtpm-{number}.pem")))?;
    }
    Ok(())
}

fn verifier(site: &Site, port: u16) -> String {
    format!(
        "[[verifier]]\nname = {:?}\nkey = {:?}\n[verifier.broker]\naddress = \"127.0.0.1:{port}\"\n\
         enrolment_address = \"127.0.0.1:{}\"\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
        site.name,
        site.dir.join("verifier.pub.pem"),
        site.ports().enrolment,
        site.broker_dir.join("ca.pem"),
        site.broker_dir.join("enrol.pem"),
        site.broker_dir.join("enrol.key"),
    )
}

/// That no verdict was ever contraindicated, nor any log or counter in doubt.
pub(crate) fn no_false_alarm(site: &Site) -> Done {
    let rows = history(site)?;
    let alarm = |row: &serde_json::Value| {
        let causes = row["causes"].to_string();
        row["verdict"] == "contraindicated" || causes.contains("log.") || causes.contains("tpm.")
    };
    anyhow::ensure!(!rows.iter().any(alarm), "{}: {rows:#?}", site.name);
    Ok(())
}

/// History of the one device.
pub(crate) fn history(site: &Site) -> Result<Vec<serde_json::Value>> {
    let devices = site.get("/v1/devices")?;
    let id = devices["devices"][0]["id"].as_str().context("a device")?;
    let history = site.get(&format!("/v1/devices/{id}/history"))?;
    Ok(history["history"].as_array().context("a history")?.clone())
}
