//! Two verifiers that know nothing of each other, at one broker: one that is dead for a while harms the other in nothing.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use data_encoding::HEXLOWER;
use devices::{
    deployment::program,
    site::{Site, eventually},
    swtpm::Swtpm,
};
use evidence::pcr::sha256;

use crate::Done;

/// Starts the attester, and each program whose path is written to its input, in a namespace of their own.
const DEVICE: &str = "\"$0\" run --config \"$1\" & while read -r path; do \"$path\" 600 & done; wait";

/// One device with two verifiers.
struct Device {
    shell: Child,
    scratch: PathBuf,
}

impl Device {
    fn start(tpm: &Swtpm, sites: [&Site; 2]) -> Result<Self> {
        let scratch = sites[0].scratch().to_owned();
        let broker = sites[0].dir.join("broker");
        let ports = sites[0].ports();
        let mut config = format!(
            "tcti = {:?}\nstate_dir = {:?}\nboot_log = \"/nonexistent\"\nima_log = \"/nonexistent\"\nsweep_seconds = 1\n\
             [broker]\naddress = \"127.0.0.1:{}\"\nenrolment_address = \"127.0.0.1:{}\"\nca = {:?}\ncertificate = {:?}\n\
             key = {:?}\n",
            tpm.tcti,
            scratch.join("state"),
            ports.devices,
            ports.enrolment,
            broker.join("ca.pem"),
            broker.join("enrol.pem"),
            broker.join("enrol.key"),
        );
        for site in sites {
            let key = site.dir.join("verifier.pub.pem");
            config += &format!("[[verifier]]\nname = {:?}\nkey = {key:?}\n", site.name);
        }
        let file = scratch.join("attester.toml");
        fs::write(&file, config)?;
        let mut shell = Command::new("unshare");
        shell.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", DEVICE]);
        shell.arg(program("attester")?.get_program()).arg(&file);
        let log = fs::File::create(scratch.join("attester.log"))?;
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Self { shell, scratch })
    }

    /// Runs a program that was never seen before; its digest.
    fn run(&mut self, name: &str) -> Result<String> {
        let path = self.scratch.join(name);
        let content = [fs::read("/bin/sleep")?, name.as_bytes().to_vec()].concat();
        fs::write(&path, &content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        writeln!(self.shell.stdin.as_mut().context("a pipe")?, "{}", path.display())?;
        Ok(HEXLOWER.encode(&sha256(&content)))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("attester.log")).unwrap_or_default()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to kill.
        drop(self.shell.kill());
        drop(self.shell.wait());
    }
}

fn trust(site: &Site, tpm: &Swtpm) -> Done {
    for (number, root) in tpm.roots.iter().enumerate() {
        fs::copy(root, site.dir.join(format!("ek_roots/software/swtpm-{number}.pem")))?;
    }
    Ok(())
}

/// Waits until the verifier knows that the program runs, and the log has led to its quote ever since.
fn knows(site: &Site, device: &Device, digest: &str) -> Done {
    let running = || Ok(site.get(&format!("/v1/devices?running={digest}"))?["total"] == 1);
    eventually(&format!("{} knows", site.name), running).with_context(|| device.log())?;
    Ok(())
}

fn history(site: &Site) -> Result<Vec<serde_json::Value>> {
    let devices = site.get("/v1/devices")?;
    let id = devices["devices"][0]["id"].as_str().context("a device")?;
    let history = site.get(&format!("/v1/devices/{id}/history"))?;
    Ok(history["history"].as_array().context("a history")?.clone())
}

fn no_false_alarm(site: &Site) -> Done {
    let rows = history(site)?;
    let alarm = |row: &serde_json::Value| {
        let codes = row["causes"].to_string();
        row["verdict"] == "contraindicated" || codes.contains("log.") || codes.contains("tpm.")
    };
    ensure!(!rows.iter().any(alarm), "{}: {rows:#?}", site.name);
    Ok(())
}

#[test]
fn a_verifier_that_was_dead_catches_up_and_the_other_notices_nothing() -> Done {
    let mut first = Site::lay_out(2)?;
    let mut second = first.beside("other", 2)?;
    let tpm = Swtpm::try_start()?;
    trust(&first, &tpm)?;
    trust(&second, &tpm)?;
    first.start_brokers()?;
    first.serve()?;
    second.serve()?;
    let mut device = Device::start(&tpm, [&first, &second])?;
    let program = device.run("before")?;
    knows(&first, &device, &program)?;
    knows(&second, &device, &program)?;

    for round in ["first", "second"] {
        second.kill_verifier();
        let rows = history(&first)?.len();
        let programs = [device.run(&format!("{round}-a"))?, device.run(&format!("{round}-b"))?];
        for program in &programs {
            knows(&first, &device, program)?;
        }
        second.serve()?;
        for program in &programs {
            knows(&second, &device, program)?;
        }
        ensure!(history(&first)?.len() == rows, "the verdict changed at the one that was not dead");
    }
    no_false_alarm(&first)?;
    no_false_alarm(&second)
}
