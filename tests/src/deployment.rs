//! A whole deployment for end-to-end tests: broker, verifier, one device with a software TPM, a signed release. The real
//! programs, started as anyone would start them; everything is killed and removed when the value is dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use evidence::{eventlog::EventLog, pcr::HashAlgorithm};
use serde_json::Value;
use tempfile::TempDir;

use crate::swtpm::{Swtpm, free_port};

/// Product that the device is approved into.
pub const PRODUCT: &str = "demo/device";
/// A boot that was captured on a virtual machine.
#[derive(Debug, Clone, Copy)]
pub struct Boot {
    /// Its log.
    pub log: &'static str,
    /// What the kernel was told, of which the log holds a digest.
    pub command_line: &'static str,
}

/// As it should be.
pub const GOOD: Boot = Boot {
    log: concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/boot/qemu-good1/eventlog.bin"),
    command_line: "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_template=ima-ng ima_hash=sha256",
};
/// Another command line in the same unified kernel image.
pub const CHANGED: Boot = Boot {
    log: concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/boot/qemu-cmdline/eventlog.bin"),
    command_line: "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_hash=sha256 ima_template=ima-ng init_on_alloc=0",
};
/// How long anything may take before a test gives up: far beyond what it takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where the brokers listen, on loopback.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// For devices.
    pub devices: u16,
    /// For who enrols.
    pub enrolment: u16,
    /// For verifiers.
    pub services: u16,
}

impl Ports {
    /// Ports that are free.
    ///
    /// # Errors
    /// Where the system has none.
    pub fn free() -> Result<Self> {
        // Drawn one by one, two may be the same.
        loop {
            let (devices, enrolment, services) = (free_port()?, free_port()?, free_port()?);
            if devices != enrolment && enrolment != services && services != devices {
                return Ok(Self { devices, enrolment, services });
            }
        }
    }
}

/// See the module.
pub struct Deployment {
    /// The device's TPM.
    pub tpm: Swtpm,
    /// Folder that `verifier init` made.
    pub verifier_dir: PathBuf,
    /// The device's state.
    pub state_dir: PathBuf,
    config: PathBuf,
    /// Of the boot that the TPM was extended with.
    boot_log: PathBuf,
    ports: Ports,
    serving: Option<Child>,
    dir: TempDir,
}

impl Deployment {
    /// Broker and verifier serve, the device is not enrolled yet.
    ///
    /// # Errors
    /// Where a program is missing or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(Swtpm::try_start()?)
    }

    /// The same around this TPM, whose CA the verifier trusts, if it has one.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(tpm: Swtpm) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("deployment-").tempdir()?;
        let verifier_dir = dir.path().join("verifier");
        let state_dir = dir.path().join("state");
        let (ports, config, boot_log) = (Ports::free()?, dir.path().join("attester.toml"), PathBuf::new());
        let mut deployment = Self { tpm, verifier_dir, state_dir, config, boot_log, ports, serving: None, dir };
        deployment.init()?;
        deployment.boot(GOOD)?;
        deployment.serve()?;
        Ok(deployment)
    }

    /// Firmware's part: each event of a captured boot, into the PCR that it was measured into.
    ///
    /// # Errors
    /// Where the TPM refuses.
    fn boot(&mut self, boot: Boot) -> Result<()> {
        let log = fs::read(boot.log)?;
        let mut extensions = Vec::new();
        for event in EventLog::read(&log)?.events() {
            let event = event?;
            if let Some(digest) = event.digest(HashAlgorithm::Sha256).filter(|_| event.extends()) {
                extensions.push((event.pcr, digest.to_vec()));
            }
        }
        self.boot_log = PathBuf::from(boot.log);
        self.extend(&extensions)
    }

    /// Extends SHA-256 PCRs, in order, as whoever has the TPM can.
    ///
    /// # Errors
    /// Where the TPM refuses.
    pub fn extend(&self, extensions: &[(u32, Vec<u8>)]) -> Result<()> {
        let one = |(pcr, digest): &(u32, Vec<u8>)| format!("{pcr}:sha256={}", data_encoding::HEXLOWER.encode(digest));
        let mut extend = Command::new("tpm2_pcrextend");
        extend.env("TPM2TOOLS_TCTI", &self.tpm.tcti).args(extensions.iter().map(one));
        succeeded("tpm2_pcrextend", &extend.output()?)
    }

    /// Power off and on, and the same boot again.
    ///
    /// # Errors
    /// Where the TPM does not come back.
    pub fn reboot(&mut self) -> Result<()> {
        self.reboot_into(GOOD)
    }

    /// Power off and on, and this boot.
    ///
    /// # Errors
    /// Where the TPM does not come back.
    pub fn reboot_into(&mut self, boot: Boot) -> Result<()> {
        self.tpm.power_cycle()?;
        self.boot(boot)
    }

    fn init(&self) -> Result<()> {
        let http = format!("127.0.0.1:{}", free_port()?);
        let dir = self.verifier_dir.as_os_str();
        let init = program("verifier")?
            .arg("init")
            .arg(dir)
            .args(["--name", "demo", "--broker", &format!("127.0.0.1:{}", self.ports.devices)])
            .args(["--enrolment-port", &self.ports.enrolment.to_string()])
            .args(["--service-port", &self.ports.services.to_string()])
            .args(["--http", &http])
            .output()?;
        succeeded("verifier init", &init)?;
        let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/demo/policy.toml");
        fs::copy(policy, self.verifier_dir.join("policy.toml"))?;
        for root in self.tpm.roots.iter().filter(|root| root.exists()) {
            let root = root.to_str().context("path of a root")?;
            succeeded("roots add", &self.verifier(&["roots", "add", root, "--software"])?)?;
        }
        let key = self.verifier_dir.join("verifier.pub.pem");
        let broker = self.verifier_dir.join("broker");
        let config = format!(
            "tcti = {:?}\nstate_dir = {:?}\nima_log = \"/nonexistent\"\nsweep_seconds = 1\n\
             [broker]\naddress = \"127.0.0.1:{}\"\nenrolment_address = \"127.0.0.1:{}\"\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n[[verifier]]\nname = \"demo\"\nkey = {key:?}\n",
            self.tpm.tcti,
            self.state_dir,
            self.ports.devices,
            self.ports.enrolment,
            broker.join("ca.pem"),
            broker.join("enrol.pem"),
            broker.join("enrol.key"),
        );
        fs::write(&self.config, config)?;
        Ok(())
    }

    /// Starts the verifier, and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not become ready.
    pub fn serve(&mut self) -> Result<()> {
        let log = fs::File::create(self.verifier_dir.join("serve.log"))?;
        let child = program("verifier")?
            .arg("serve")
            .arg("--config")
            .arg(self.verifier_dir.join("verifier.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.serving = Some(child);
        self.eventually("verifier ready", || Ok(self.http("/readyz")?.contains("200")))
    }

    /// Ends the verifier at once, as a crash would.
    pub fn kill_verifier(&mut self) {
        if let Some(mut child) = self.serving.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Ends the verifier in order.
    ///
    /// # Errors
    /// Where no signal can be sent.
    pub fn stop_verifier(&mut self) -> Result<()> {
        if let Some(mut child) = self.serving.take() {
            Command::new("kill").arg(child.id().to_string()).status()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Signs a release of what is in `rootfs` and of a good boot, and has the verifier load it.
    ///
    /// # Errors
    /// Where a program fails.
    pub fn sign_release(&self, name: &str, rootfs: &Path) -> Result<()> {
        self.sign_release_on(name, rootfs, GOOD)
    }

    fn sign_release_on(&self, name: &str, rootfs: &Path, boot: Boot) -> Result<()> {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let key = file("maker.pem");
        let tool = |arguments: &[&str]| -> Result<()> {
            succeeded("reference-values", &program("reference-values")?.args(arguments).output()?)
        };
        if !Path::new(&key).exists() {
            tool(&["keygen", "--out", &key])?;
            let public = fs::read_to_string(file("maker.pub.pem"))?;
            let trust = format!(
                "[[signer]]\nname = \"Maker\"\nrole = \"manufacturer\"\nproducts = [\"demo/*\"]\nkey = \"\"\"\n{public}\"\"\"\n"
            );
            fs::write(self.verifier_dir.join("trust/maker.toml"), trust)?;
        }
        let rootfs = rootfs.display().to_string();
        let signed = self.verifier_dir.join("reference_values").join(format!("{name}.corim")).display().to_string();
        let unsigned = file("unsigned.corim");
        tool(&[
            "build",
            "--rootfs",
            &rootfs,
            "--boot-log",
            boot.log,
            "--cmdline",
            boot.command_line,
            "--product",
            PRODUCT,
            "--release",
            name,
            "-o",
            &unsigned,
        ])?;
        tool(&["sign", &unsigned, "--key", &key, "--role", "manufacturer", "-o", &signed])?;
        self.reload()
    }

    /// Has the verifier read its rules again.
    ///
    /// # Errors
    /// Where no signal can be sent.
    pub fn reload(&self) -> Result<()> {
        if let Some(child) = &self.serving {
            Command::new("kill").args(["-HUP", &child.id().to_string()]).status()?;
        }
        Ok(())
    }

    /// Runs `attester` with this device's configuration, to its end, where it sees no process but its own.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn attester(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.attester_command(arguments)?.output()?)
    }

    /// The same, to be given more of an environment.
    ///
    /// # Errors
    /// Where the program is missing.
    pub fn attester_command(&self, arguments: &[&str]) -> Result<Command> {
        let attester = program("attester")?.get_program().to_owned();
        let mut command = self.isolated();
        command.arg(attester).arg(arguments[0]).arg("--config").arg(&self.config).args(&arguments[1..]);
        Ok(command)
    }

    /// Runs `attester once` beside another program, in the same namespace.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn attester_once_beside(&self, other: &Path) -> Result<Output> {
        let attester = program("attester")?.get_program().to_owned();
        let mut command = self.isolated();
        command.args(["sh", "-c", "\"$1\" 60 & exec \"$2\" once --config \"$3\"", "sh"]);
        Ok(command.arg(other).arg(attester).arg(&self.config).output()?)
    }

    /// A PID namespace with a /proc of its own: what runs on the machine beside the test is not on the device.
    fn isolated(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.env("COUNTERSIGN_ATTESTER__BOOT_LOG", &self.boot_log);
        command
    }

    /// Signs a release of exactly what these tests run on the device, the attester, a shell, and their libraries, on a
    /// good boot.
    ///
    /// # Errors
    /// Where a file cannot be copied.
    pub fn sign_release_of_the_device(&self) -> Result<()> {
        self.sign_release_booted("1.0", GOOD)
    }

    /// The same, with this name and on this boot.
    ///
    /// # Errors
    /// Where a file cannot be copied.
    pub fn sign_release_booted(&self, name: &str, boot: Boot) -> Result<()> {
        let root = self.dir.path().join("rootfs");
        let attester = PathBuf::from(program("attester")?.get_program());
        for file in [attester, PathBuf::from("/bin/sh"), PathBuf::from("/bin/sleep")] {
            for file in libraries(&file)?.into_iter().chain([file]) {
                let copy = root.join(file.strip_prefix("/")?);
                fs::create_dir_all(copy.parent().context("a folder")?)?;
                fs::copy(&file, copy).with_context(|| format!("cannot copy {}", file.display()))?;
            }
        }
        self.sign_release_on(name, &root, boot)
    }

    /// Runs `verifier` with its configuration, to its end.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn verifier(&self, arguments: &[&str]) -> Result<Output> {
        let config = self.verifier_dir.join("verifier.toml");
        Ok(program("verifier")?.args(arguments).arg("--config").arg(config).output()?)
    }

    /// Runs `verifier … --json`, which must succeed.
    ///
    /// # Errors
    /// Where it does not.
    pub fn verifier_json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.verifier(&[arguments, &["--json"]].concat())?;
        succeeded(&arguments.join(" "), &output)?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The one device that the verifier knows.
    ///
    /// # Errors
    /// Where there is none.
    pub fn device_id(&self) -> Result<String> {
        let devices = self.verifier_json(&["devices"])?;
        Ok(devices["devices"][0]["id"].as_str().context("no device is enrolled")?.to_owned())
    }

    /// Verdict of that device.
    ///
    /// # Errors
    /// Where there is none.
    pub fn verdict(&self, id: &str) -> Result<String> {
        Ok(self.verifier_json(&["device", id])?["verdict"].as_str().context("no verdict")?.to_owned())
    }

    /// Value of a counter, summed over the lines that hold all of `words`.
    ///
    /// # Errors
    /// Where the verifier does not answer.
    pub fn counter(&self, words: &[&str]) -> Result<f64> {
        let metrics = self.http("/metrics")?;
        let lines =
            metrics.lines().filter(|line| !line.starts_with('#') && words.iter().all(|word| line.contains(word)));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
    /// Where the HTTP API listens.
    ///
    /// # Errors
    /// Where the configuration does not say.
    pub fn http_address(&self) -> Result<String> {
        let config = fs::read_to_string(self.verifier_dir.join("verifier.toml"))?;
        let listen = config.lines().find_map(|line| line.strip_prefix("listen = ")).context("no listen address")?;
        Ok(listen.trim_matches('"').to_owned())
    }

    /// A GET with the token; status line, headers and body as they come.
    ///
    /// # Errors
    /// Where the verifier does not answer.
    pub fn http(&self, path: &str) -> Result<String> {
        use std::io::{Read as _, Write as _};
        let token = fs::read_to_string(self.verifier_dir.join("api-token"))?;
        let mut stream = std::net::TcpStream::connect(self.http_address()?)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
            token.trim()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Where the brokers listen.
    #[must_use]
    pub const fn ports(&self) -> Ports {
        self.ports
    }

    /// Publishes as a holder of one of the brokers' certificates, where that opens a door: `who` is `device`, `enrol` (whose
    /// client ids begin with `d-`) or `verifier`.
    ///
    /// # Errors
    /// Where `mosquitto_pub` cannot be started.
    pub fn publish(&self, who: &str, client: &str, topic: &str, message: &[u8]) -> Result<Output> {
        let file = self.dir.path().join("message");
        fs::write(&file, message)?;
        let broker = self.verifier_dir.join("broker");
        let (port, base) = match who {
            "device" => (self.ports.devices, self.state_dir.join("connection")),
            "enrol" => (self.ports.enrolment, broker.join(who)),
            _ => (self.ports.services, broker.join(who)),
        };
        Ok(Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", "mqttv5", "-q", "1", "-i", client, "-t", topic])
            .arg("--cafile")
            .arg(broker.join("ca.pem"))
            .arg("--cert")
            .arg(base.with_extension("pem"))
            .arg("--key")
            .arg(base.with_extension("key"))
            .arg("-f")
            .arg(file)
            .output()?)
    }

    /// Waits until `done` holds.
    ///
    /// # Errors
    /// Where it does not within [`PATIENCE`].
    pub fn eventually(&self, what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done().unwrap_or(false) {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.verifier_dir.join("serve.log")).unwrap_or_default();
                bail!("{what}: not within {PATIENCE:?}; the verifier's log:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        // In order, so that the broker it has spawned ends with it.
        drop(self.stop_verifier());
    }
}

/// One of the workspace's programs, from the folder that this test was built into.
///
/// # Errors
/// Where it has not been built.
pub fn program(name: &str) -> Result<Command> {
    let test = std::env::current_exe()?;
    let file = test.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|file| file.is_file());
    Ok(Command::new(file.with_context(|| format!("{name} is not built: cargo build --workspace --bins"))?))
}

/// Shared libraries of a program, with the one that libtss2 loads by name.
fn libraries(file: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(file).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut libraries: Vec<PathBuf> =
        listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect();
    let tss = libraries.iter().find(|library| library.to_string_lossy().contains("libtss2-esys"));
    if let Some(tcti) = tss.map(|library| library.with_file_name("libtss2-tcti-swtpm.so.0")) {
        libraries.push(tcti);
    }
    Ok(libraries)
}

/// That a program ended with 0; else what it said.
///
/// # Errors
/// With its output, where it did not.
pub fn succeeded(what: &str, output: &Output) -> Result<()> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{what}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    Ok(())
}
