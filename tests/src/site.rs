//! An installation whose parts can be ended one by one: the brokers and the verifier as processes of their own, laid out by
//! `verifier init`, with a signed release and a CA for a simulated fleet. Everything is killed and removed when the value
//! is dropped.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use evidence::{claims::DeviceId, result::Tier};
use reference_values::{BootPcrs, Executable, Release, Role, SignedDocument, SigningKey};
use ring::rand::SystemRandom;
use serde_json::Value;
use tempfile::TempDir;
use verifier::{config::Config, store::Store};

use crate::{
    deployment::{PATIENCE, PRODUCT, Ports, program, succeeded},
    fleet::{Book, Fleet, Orders, PROGRAMS, Place, program_digest, program_path},
    software_ek::Ca,
    swtpm::free_port,
};

/// Name of a verifier.
const VERIFIER: &str = "demo";
/// Configurations of the brokers: for devices and verifiers, and for who enrols.
const BROKERS: [&str; 2] = ["mosquitto.conf", "enrolment.conf"];
/// Devices that enrol at a time.
const ENROLLING: usize = 32;
/// Begins what the verifier itself writes to the broker's rules.
const SHUT_OUT: &str = "# Devices that are shut out.";
/// Between two looks where nothing tells.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// See the module.
pub struct Site {
    /// Folder that `verifier init` made.
    pub dir: PathBuf,
    /// Configuration of the brokers that it is at.
    pub broker_dir: PathBuf,
    /// The verifier's name.
    pub name: String,
    ports: Ports,
    http: u16,
    brokers: Vec<Child>,
    serving: Option<Child>,
    parent: TempDir,
}

impl Site {
    /// Lays everything out; nothing runs yet. `epoch` is the length of an epoch in seconds.
    ///
    /// # Errors
    /// Where a program is missing or fails.
    pub fn lay_out(epoch: u32) -> Result<Self> {
        Self::lay_out_as(VERIFIER, epoch)
    }

    /// The same for a verifier with this name.
    ///
    /// # Errors
    /// Where a program is missing or fails.
    pub fn lay_out_as(name: &str, epoch: u32) -> Result<Self> {
        Self::named(name, Ports::free()?, epoch)
    }

    /// Lays out an independent verifier at the brokers of this one, which must not run yet.
    ///
    /// # Errors
    /// Where a program is missing or fails.
    pub fn beside(&self, name: &str, epoch: u32) -> Result<Self> {
        let mut other = Self::named(name, self.ports, epoch)?;
        let [acl, others] = [self, &other].map(|site| site.dir.join("broker/acl"));
        let (rules, others) = (fs::read_to_string(&acl)?, fs::read_to_string(others)?);
        let (above, below) = rules.split_once(SHUT_OUT).context("a place for rules")?;
        let own = others.lines().filter(|line| line.ends_with(name) || line.contains(&format!("/{name}/")));
        let own =
            format!("{}\ntopic read cs/1/+/up/#\ntopic read cs/1/enrol/+/up\n", own.collect::<Vec<_>>().join("\n"));
        fs::write(&acl, format!("{above}{own}\n{SHUT_OUT}{below}"))?;
        other.broker_dir = self.dir.join("broker");
        other.certify_by(&other.broker_dir)?;
        Ok(other)
    }

    /// This verifier's certificate for the broker of another installation.
    fn certify_by(&self, broker: &Path) -> Result<()> {
        let own = self.dir.join("broker");
        let [request, extensions] = ["request.pem", "extensions"].map(|file| own.join(file));
        fs::write(&extensions, "extendedKeyUsage = clientAuth\nkeyUsage = digitalSignature\n")?;
        let mut ask = Command::new("openssl");
        ask.args(["req", "-new", "-subj", &format!("/CN={}", self.name), "-key"]).arg(own.join("verifier.key"));
        succeeded("openssl req", &ask.arg("-out").arg(&request).output()?)?;
        let ca = broker.join("ca.pem");
        let mut sign = Command::new("openssl");
        sign.args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in"]).arg(&request).arg("-CA").arg(&ca);
        sign.arg("-CAkey").arg(broker.join("ca.key")).arg("-extfile").arg(&extensions);
        succeeded("openssl x509", &sign.arg("-out").arg(own.join("verifier.pem")).output()?)?;
        fs::copy(ca, own.join("ca.pem"))?;
        // It issues no certificates to the devices of that broker.
        fs::remove_file(own.join("devices-ca.key"))?;
        Ok(())
    }

    fn named(name: &str, ports: Ports, epoch: u32) -> Result<Self> {
        let parent = tempfile::Builder::new().prefix("site-").tempdir()?;
        let site = Self {
            dir: parent.path().join("verifier"),
            broker_dir: parent.path().join("verifier/broker"),
            name: name.to_owned(),
            ports,
            http: free_port()?,
            brokers: Vec::new(),
            serving: None,
            parent,
        };
        let Ports { devices, enrolment, services } = ports;
        let init = program("verifier")?
            .arg("init")
            .arg(&site.dir)
            .args(["--name", name, "--broker", &format!("127.0.0.1:{devices}")])
            .args(["--enrolment-port", &enrolment.to_string(), "--service-port", &services.to_string()])
            .args(["--http", &format!("127.0.0.1:{}", site.http)])
            .output()?;
        succeeded("verifier init", &init)?;
        let config = site.dir.join("verifier.toml");
        let text = fs::read_to_string(&config)?.replace("spawn = true", "spawn = false");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("epoch_seconds")).collect();
        fs::write(&config, format!("epoch_seconds = {epoch}\n{}\n", lines.join("\n")))?;
        let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/demo/policy.toml");
        fs::copy(policy, site.dir.join("policy.toml"))?;
        let root = Ca::new()?.write(&site.ca_dir())?;
        fs::copy(root, site.dir.join("ek_roots/software/simulated-ca.pem"))?;
        site.sign_release()?;
        Ok(site)
    }

    /// Folder of the CA that the fleet's keys are certified by.
    #[must_use]
    pub fn ca_dir(&self) -> PathBuf {
        self.parent.path().join("ca")
    }

    /// A folder that is removed with the rest.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.parent.path()
    }

    /// A release with every program of the fleet, on devices without a boot log.
    fn sign_release(&self) -> Result<()> {
        let random = SystemRandom::new();
        let executable = |number| Executable { digest: program_digest(number), path: program_path(number) };
        let boot = BootPcrs::new(BTreeMap::from([(0, [0; 32])]))?;
        let release = Release::new(PRODUCT, "1.0", 1, (0..PROGRAMS).map(executable).collect(), vec![boot])?;
        let key = SigningKey::from_pem(&SigningKey::generate(&random)?)?;
        let signed = SignedDocument::unsigned(release).sign(&key, Role::Manufacturer, &random)?;
        let trust = format!(
            "[[signer]]\nname = \"Maker\"\nrole = \"manufacturer\"\nproducts = [\"demo/*\"]\nkey = \"\"\"\n{}\"\"\"\n",
            key.public().to_pem()
        );
        fs::write(self.dir.join("trust/maker.toml"), trust)?;
        fs::write(self.dir.join("reference_values/1.0.corim"), signed.encode())?;
        Ok(())
    }

    /// Has the verifier connect to its broker through a relay at this port.
    ///
    /// # Errors
    /// Where its configuration cannot be written.
    pub fn reach_broker_through(&self, port: u16) -> Result<()> {
        let config = self.dir.join("verifier.toml");
        let text = fs::read_to_string(&config)?;
        let (from, to) = (format!("localhost:{}", self.ports.services), format!("localhost:{port}"));
        ensure!(text.contains(&from), "the broker's address is {from}");
        Ok(fs::write(&config, text.replace(&from, &to))?)
    }

    /// Starts the brokers, and waits until they listen.
    ///
    /// # Errors
    /// Where they do not.
    pub fn start_brokers(&mut self) -> Result<()> {
        for (configuration, port) in BROKERS.iter().zip([self.ports.services, self.ports.enrolment]) {
            let log = append(&self.dir.join(configuration).with_extension("log"))?;
            let mut child = Command::new("mosquitto")
                .arg("-c")
                .arg(self.dir.join("broker").join(configuration))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .context("cannot start mosquitto; Debian: apt-get install mosquitto")?;
            let listens = eventually("mosquitto listens", || {
                ensure!(child.try_wait()?.is_none(), "mosquitto has ended");
                Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
            });
            self.brokers.push(child);
            listens?;
        }
        Ok(())
    }

    /// Kills the brokers, as a power cut would; `wiped` with what they had kept on disk.
    ///
    /// # Errors
    /// Where that cannot be removed.
    pub fn kill_brokers(&mut self, wiped: bool) -> Result<()> {
        self.brokers.drain(..).for_each(kill);
        let data = self.dir.join("broker/data");
        if wiped {
            fs::remove_dir_all(&data)?;
            fs::create_dir(&data)?;
        }
        Ok(())
    }

    /// Process ids of the brokers.
    #[must_use]
    pub fn broker_pids(&self) -> Vec<u32> {
        self.brokers.iter().map(Child::id).collect()
    }

    /// `verifier serve`, to be changed before it is started.
    ///
    /// # Errors
    /// Where the program is missing.
    pub fn serve_command(&self) -> Result<Command> {
        let mut command = program("verifier")?;
        command.arg("serve").arg("--config").arg(self.dir.join("verifier.toml"));
        Ok(command)
    }

    /// Starts the verifier, and waits until it says that it is ready.
    ///
    /// # Errors
    /// Where it does not.
    pub fn serve(&mut self) -> Result<()> {
        let command = self.serve_command()?;
        self.serve_with(command)
    }

    /// The same with another command, which says the same when it is ready.
    ///
    /// # Errors
    /// Where it does not.
    pub fn serve_with(&mut self, mut command: Command) -> Result<()> {
        let log = append(&self.log())?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let out = child.stdout.take().context("a pipe")?;
        self.serving = Some(child);
        match first_line(out).recv_timeout(PATIENCE) {
            Ok(line) if line.starts_with("ready: ") => Ok(()),
            other => {
                bail!("the verifier does not say that it is ready, but {other:?}; its log:\n{}", self.end_of_log())
            }
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("serve.log")
    }

    /// The last words of the verifier.
    #[must_use]
    pub fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Process id of the verifier.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn verifier_pid(&self) -> Result<u32> {
        Ok(self.serving.as_ref().context("the verifier does not run")?.id())
    }

    /// Kills the verifier, as a power cut would.
    pub fn kill_verifier(&mut self) {
        self.serving.take().into_iter().for_each(kill);
    }

    /// A fleet's place: devices connect directly.
    ///
    /// # Errors
    /// Where a file does not read.
    pub fn place(&self) -> Result<Place> {
        self.place_at(self.ports.devices)
    }

    /// A fleet's place whose devices connect to `port` once they are enrolled.
    ///
    /// # Errors
    /// Where a file does not read.
    pub fn place_at(&self, port: u16) -> Result<Place> {
        let ca = Ca::in_folder(&self.ca_dir())?;
        Place::new(ca, &self.dir, &self.name, &format!("127.0.0.1:{port}"))?
            .enrolling_at(&format!("127.0.0.1:{}", self.ports.enrolment))
    }

    /// Where the brokers listen.
    #[must_use]
    pub const fn ports(&self) -> Ports {
        self.ports
    }

    /// A fleet of devices that are enrolled, approved and affirmed, with one program on each; it follows `orders` then.
    ///
    /// # Errors
    /// Where one of them is not.
    pub async fn affirmed_fleet(&self, place: Place, devices: usize, orders: Orders) -> Result<Fleet> {
        let first = Orders { epochs: false, programs: 1, rounds: 0, one_more_each_round: false, ..orders };
        let fleet = Fleet::enrol(place, devices, ENROLLING, first).await?;
        ensure!(fleet.failed().is_empty(), "{:?}", fleet.failed());
        self.approve(&fleet.devices())?;
        fleet.order(|now| now.rounds = 1);
        let affirmed = |book: &Book| {
            !book.awaits_result && book.results.last().is_some_and(|result| result.verdict == Tier::Affirming)
        };
        fleet.until("affirmed", PATIENCE, affirmed).await?;
        fleet.order(|now| *now = Orders { programs: now.programs, rounds: 1, ..orders });
        Ok(fleet)
    }

    /// Approves devices into the product that the release is for.
    ///
    /// # Errors
    /// Where the verifier refuses.
    pub fn approve(&self, devices: &[DeviceId]) -> Result<()> {
        let body = format!("{{\"product\":{PRODUCT:?}}}");
        for device in devices {
            let (status, answer) = self.http("POST", &format!("/v1/devices/{device}/approve"), &body)?;
            ensure!(status == 200, "approve: {status} {answer}");
        }
        Ok(())
    }

    /// What `/readyz` says: nothing where the verifier is ready.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn not_ready(&self) -> Result<Option<String>> {
        let (status, answer) = self.http("GET", "/readyz", "")?;
        Ok((status != 200).then_some(answer))
    }

    /// Answer of the API as JSON.
    ///
    /// # Errors
    /// Where it is none.
    pub fn get(&self, path: &str) -> Result<Value> {
        let (status, answer) = self.http("GET", path, "")?;
        ensure!(status == 200, "{path}: {status} {answer}");
        Ok(serde_json::from_str(&answer)?)
    }

    /// Value of a counter, summed over the lines that hold all of `words`.
    ///
    /// # Errors
    /// Where the verifier does not answer.
    pub fn counter(&self, words: &[&str]) -> Result<f64> {
        let (_, metrics) = self.http("GET", "/metrics", "")?;
        let lines =
            metrics.lines().filter(|line| !line.starts_with('#') && words.iter().all(|word| line.contains(word)));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    fn http(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let token = fs::read_to_string(self.dir.join("api-token"))?;
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.http))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            token.trim(),
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
        Ok((status, body.to_owned()))
    }

    /// The store, beside the running verifier.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn store(&self) -> Result<Store> {
        Ok(Store::open(&Config::load(Some(&self.dir.join("verifier.toml")), [])?.store())?)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill_verifier();
        self.brokers.drain(..).for_each(kill);
    }
}

fn kill(mut child: Child) {
    // It may have ended already: then there is nothing to kill.
    drop(child.kill());
    drop(child.wait());
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}

/// The first line of what a program prints; the rest is read and dropped, so that the pipe never breaks.
fn first_line(out: ChildStdout) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            // Only the first is waited for.
            drop(tell.send(line));
        }
    });
    told
}

/// Waits until `done` holds. An error is looked at again like a `false`, and told at the end.
///
/// # Errors
/// Where it does not hold within [`PATIENCE`].
pub fn eventually(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let looked = done();
        if matches!(looked, Ok(true)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}; last: {looked:?}");
        thread::sleep(LOOK_AGAIN);
    }
}
