//! What other programs that wait for a device's verdict meet: `attester wait` beside the running service, and what that
//! tells a service manager. The real programs, on a software TPM.
//! Needs root (namespaces), and `cargo build --workspace --bins` before.

use std::{
    fs,
    io::ErrorKind,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use devices::deployment::{Deployment, PATIENCE, PRODUCT, succeeded};
use serde_json::Value;

type Done = anyhow::Result<()>;

const GRACE: &str = "COUNTERSIGN_ATTESTER__STARTUP_GRACE_SECONDS";

/// A running `attester run`, ended with the value.
struct Service(Child);

impl Service {
    fn start(deployment: &Deployment) -> anyhow::Result<Self> {
        Self::spawn(deployment, deployment.attester_command(&["run"])?)
    }

    /// With another program beside it, in the same namespace.
    fn start_beside(deployment: &Deployment, other: &Path) -> anyhow::Result<Self> {
        let run = deployment.attester_command(&["run"])?;
        let arguments: Vec<_> = run.get_args().map(ToOwned::to_owned).collect();
        let attester = arguments.iter().position(|word| word.as_encoded_bytes().ends_with(b"attester"));
        let (namespace, attester) = arguments.split_at(attester.context("the attester")?);
        let mut beside = Command::new(run.get_program());
        beside.args(namespace).args(["sh", "-c", "\"$0\" 600 & exec \"$@\""]).arg(other).args(attester);
        Self::spawn(deployment, beside)
    }

    fn spawn(deployment: &Deployment, mut run: Command) -> anyhow::Result<Self> {
        let log = fs::File::create(log(deployment))?;
        Ok(Self(run.stderr(log).stdout(Stdio::null()).stdin(Stdio::null()).spawn()?))
    }

    /// Asks the attester, which is the only child of the namespace's keeper, to end.
    fn terminate(&mut self) -> Done {
        let id = self.0.id();
        let attester = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        succeeded("kill", &Command::new("kill").arg(attester.trim()).output()?)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to kill.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn log(deployment: &Deployment) -> std::path::PathBuf {
    deployment.state_dir.with_extension("log")
}

fn enrolled_and_approved() -> anyhow::Result<Deployment> {
    let deployment = Deployment::start()?;
    deployment.sign_release_of_the_device()?;
    succeeded("enrol", &deployment.attester(&["enrol"])?)?;
    let id = deployment.device_id()?;
    succeeded("approve", &deployment.verifier(&["approve", &id, "--product", PRODUCT])?)?;
    Ok(deployment)
}

/// Runs `attester wait`, with so many seconds of grace.
fn wait(deployment: &Deployment, grace: u32, timeout: u32) -> anyhow::Result<Output> {
    let timeout = timeout.to_string();
    Ok(deployment.attester_command(&["wait", "--timeout", &timeout])?.env(GRACE, grace.to_string()).output()?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn ends_with(expected: i32, deployment: &Deployment, output: &Output) {
    let log = fs::read_to_string(log(deployment)).unwrap_or_default();
    assert_eq!(output.status.code(), Some(expected), "{}\nthe service:\n{log}", said(output));
}

fn status(deployment: &Deployment) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&deployment.attester(&["status", "--json"])?.stdout)?)
}

fn is_running(deployment: &Deployment) -> Done {
    deployment.eventually("the service runs", || Ok(status(deployment)?["running"] == true))
}

/// A program that no release lists.
fn implant(dir: &Path) -> anyhow::Result<std::path::PathBuf> {
    let path = dir.join("implant");
    fs::write(&path, [fs::read("/bin/sleep")?, b"x".to_vec()].concat())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn whoever_waits_before_the_service_runs_goes_on_once_it_is_affirmed() -> Done {
    let deployment = enrolled_and_approved()?;
    let before = wait(&deployment, 0, 1)?;
    ends_with(5, &deployment, &before);
    let mut waiting = deployment.attester_command(&["wait"])?;
    let waiting = waiting.stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let _service = Service::start(&deployment)?;
    let done = waiting.wait_with_output()?;
    ends_with(0, &deployment, &done);
    assert!(!said(&done).contains("warning"), "{}", said(&done));
    let begun = Instant::now();
    ends_with(0, &deployment, &wait(&deployment, 0, 30)?);
    assert!(begun.elapsed() < PATIENCE, "what is known is not waited for");
    Ok(())
}

#[test]
fn a_verdict_counts_in_its_boot_and_while_the_service_runs() -> Done {
    let mut deployment = enrolled_and_approved()?;
    let mut service = Service::start(&deployment)?;
    ends_with(0, &deployment, &wait(&deployment, 0, 60)?);
    service.terminate()?;
    ends_with(5, &deployment, &wait(&deployment, 0, 1)?);

    // Nobody judges from here on: all that there is was said before.
    deployment.kill_verifier();
    let mut service = Service::start(&deployment)?;
    ends_with(0, &deployment, &wait(&deployment, 0, 60)?);
    service.terminate()?;

    // As another kernel left it.
    let file = deployment.state_dir.join("status.json");
    let mut left: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let of_boot = &mut left["standing"]["demo"]["of_boot"]["kernel"];
    assert!(of_boot.is_string(), "{left}");
    *of_boot = "01234567-89ab-cdef-0123-456789abcdef".into();
    let now = fs::read(&file)?;
    fs::write(&file, left.to_string())?;
    let mut service = Service::start(&deployment)?;
    is_running(&deployment)?;
    ends_with(5, &deployment, &wait(&deployment, 0, 2)?);
    service.terminate()?;

    // By the same kernel, on a TPM that was reset.
    fs::write(&file, now)?;
    deployment.reboot()?;
    let _service = Service::start(&deployment)?;
    // Which start of the TPM this is, only the TPM tells, and the service asks it first of all.
    deployment.eventually("what was said is of another boot", || {
        let kept: Value = serde_json::from_slice(&fs::read(&file)?)?;
        Ok(kept["standing"]["demo"]["of_boot"].is_null() && status(&deployment)?["running"] == true)
    })?;
    ends_with(5, &deployment, &wait(&deployment, 0, 2)?);
    assert_eq!(status(&deployment)?["verifiers"]["demo"]["verdict"], "affirmed", "shown still, with its times");
    Ok(())
}

#[test]
fn grace_does_not_override_a_verdict() -> Done {
    let deployment = enrolled_and_approved()?;
    let folder = tempfile::tempdir()?;
    let _service = Service::start_beside(&deployment, &implant(folder.path())?)?;
    deployment
        .eventually("judged", || Ok(status(&deployment)?["verifiers"]["demo"]["verdict"] == "contraindicated"))?;
    let done = wait(&deployment, 1, 3)?;
    ends_with(4, &deployment, &done);
    assert!(said(&done).contains("contraindicated"), "{}", said(&done));
    Ok(())
}

#[test]
fn a_device_that_is_shut_out_is_not_let_pass() -> Done {
    let deployment = enrolled_and_approved()?;
    succeeded("revoke", &deployment.verifier(&["revoke", &deployment.device_id()?, "--why", "stolen"])?)?;
    // It has lost what it had, and has to enrol anew.
    fs::remove_dir_all(&deployment.state_dir)?;
    let _service = Service::start(&deployment)?;
    deployment.eventually("refused", || Ok(status(&deployment)?["refusals"]["demo"]["code"] == "identity.revoked"))?;
    ends_with(4, &deployment, &wait(&deployment, 1, 3)?);
    Ok(())
}

#[test]
fn where_nobody_answers_grace_ends_the_wait_and_time_does_without() -> Done {
    let mut deployment = enrolled_and_approved()?;
    let alone = wait(&deployment, 1, 60)?;
    ends_with(0, &deployment, &alone);
    assert!(said(&alone).contains("attester: warning: not affirmed"), "{}", said(&alone));
    deployment.kill_verifier();
    let _service = Service::start(&deployment)?;
    is_running(&deployment)?;
    ends_with(5, &deployment, &wait(&deployment, 0, 2)?);
    ends_with(5, &deployment, &wait(&deployment, 60, 2)?);
    let quiet = deployment.attester_command(&["wait", "--quiet"])?.env(GRACE, "1").output()?;
    ends_with(0, &deployment, &quiet);
    assert!(said(&quiet).contains("no verdict from demo") && said(&quiet).contains("startup_grace_seconds"));
    Ok(())
}

/// What a service manager hears: datagrams in order.
struct Heard(UnixDatagram);

impl Heard {
    /// The first line that `is` it, within this time.
    fn line(&self, within: Duration, is: impl Fn(&str) -> bool) -> anyhow::Result<Option<String>> {
        let deadline = Instant::now() + within;
        let mut buffer = [0; 4096];
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.0.set_read_timeout(Some(left))?;
            match self.0.recv(&mut buffer) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    if let Some(line) = text.lines().find(|line| is(line)) {
                        return Ok(Some(line.to_owned()));
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn soon(&self, expected: &str) -> Done {
        self.line(PATIENCE, |line| line.starts_with(expected))?.with_context(|| format!("{expected} is not told"))?;
        Ok(())
    }
}

#[test]
fn a_service_manager_hears_how_the_service_stands_and_that_its_tpm_hangs() -> Done {
    let deployment = enrolled_and_approved()?;
    let path = deployment.verifier_dir.join("notify");
    let heard = Heard(UnixDatagram::bind(&path)?);
    let mut run = deployment.attester_command(&["run"])?;
    run.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let mut service = Service::spawn(&deployment, run)?;
    heard.soon("READY=1")?;
    heard.soon("STATUS=demo: affirmed until 20")?;
    heard.soon("WATCHDOG=1")?;

    let tpm = swtpm(&deployment)?;
    let signal = |how: &str| succeeded("kill", &Command::new("kill").args([how, &tpm]).output()?);
    signal("-STOP")?;
    let id = deployment.device_id()?;
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| deployment.verifier(&["check", &id, "--wait", "30"]));
        let hungry = Instant::now();
        // Until the request has reached the TPM the watchdog is fed.
        while heard.line(Duration::from_secs(5), |line| line == "WATCHDOG=1")?.is_some() {
            assert!(hungry.elapsed() < PATIENCE, "fed, whatever the TPM does");
        }
        signal("-CONT")?;
        heard.soon("WATCHDOG=1")?;
        drop(asked.join());
        Done::Ok(())
    })?;
    service.terminate()?;
    heard.soon("STOPPING=1")
}

/// The process that is the device's TPM.
fn swtpm(deployment: &Deployment) -> anyhow::Result<String> {
    let folder = deployment.tpm.dir().display().to_string();
    let found = Command::new("pgrep").args(["-f", &format!("^swtpm socket .*{folder}")]).output()?;
    Ok(String::from_utf8(found.stdout)?.trim().to_owned())
}
