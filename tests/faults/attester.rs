//! Devices that lose their attester, or their power, at the worst moment.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use devices::{
    deployment::{Deployment, PATIENCE, PRODUCT, succeeded},
    site::eventually,
};

use crate::{
    Done,
    tpm_relay::{Relay, Stop},
};

/// A device that is enrolled, approved, and runs what its release lists.
fn affirmed() -> Result<(Deployment, String)> {
    let deployment = Deployment::start()?;
    deployment.sign_release_of_the_device()?;
    succeeded("enrol", &deployment.attester(&["enrol"])?)?;
    let id = deployment.device_id()?;
    succeeded("approve", &deployment.verifier(&["approve", &id, "--product", PRODUCT])?)?;
    succeeded("once", &deployment.attester(&["once"])?)?;
    Ok((deployment, id))
}

fn start(mut command: Command) -> Result<Child> {
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// Kills what runs in the namespace, and `unshare`: neither may have got far. It is no child of this program, so nothing
/// tells when it has ended.
fn kill(mut child: Child) -> Done {
    let pid = child.id();
    signal("-STOP", &pid.to_string())?;
    let inside = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    inside.split_whitespace().try_for_each(|inside| signal("-KILL", inside))?;
    child.kill()?;
    child.wait()?;
    for inside in inside.split_whitespace() {
        eventually("the attester ends", || {
            // Its files and locks are gone with its last thread, whoever has to wait for it afterwards.
            let threads = |dir: fs::ReadDir| dir.filter_map(|thread| Some(thread.ok()?.path().join("stat")));
            let alive = |stat: PathBuf| fs::read_to_string(stat).is_ok_and(|stat| !stat.contains(") Z "));
            Ok(fs::read_dir(format!("/proc/{inside}/task")).map_or(true, |dir| !threads(dir).any(alive)))
        })?;
    }
    Ok(())
}

fn signal(name: &str, pid: &str) -> Done {
    succeeded("kill", &Command::new("kill").args([name, pid]).output()?)
}

/// That no verdict was ever contraindicated.
fn no_false_alarm(deployment: &Deployment, id: &str) -> Done {
    let history = deployment.verifier_json(&["history", id])?;
    let rows = history["history"].as_array().context("a history")?;
    ensure!(rows.iter().all(|row| row["verdict"] != "contraindicated"), "{rows:#?}");
    Ok(())
}

#[test]
fn an_attester_killed_around_an_extend_of_its_log_is_affirmed_afterwards() -> Done {
    let (mut deployment, id) = affirmed()?;
    for (pass, stop) in [(0, Stop::Before), (0, Stop::After), (2, Stop::Before), (2, Stop::After)] {
        deployment.reboot()?;
        let relay = Relay::to(&deployment.tpm.tcti)?;
        relay.stop_at_extend(pass, stop);
        let mut once = deployment.attester_command(&["once"])?;
        once.env("COUNTERSIGN_ATTESTER__TCTI", &relay.tcti);
        let once = start(once)?;
        relay.stopped().recv_timeout(PATIENCE).context("the attester extends its log")?;
        kill(once)?;
        let again = deployment.attester(&["once"])?;
        let said = String::from_utf8_lossy(&again.stderr);
        ensure!(again.status.code() == Some(0), "after {pass} extends, {stop:?}: {:?}\n{said}", again.status);
    }
    no_false_alarm(&deployment, &id)
}

#[test]
fn an_attester_killed_at_any_moment_goes_on_with_its_boot_and_is_affirmed() -> Done {
    let (deployment, id) = affirmed()?;
    for millis in [0, 30, 60, 100, 150, 220, 300, 400] {
        let run = start(deployment.attester_command(&["run"])?)?;
        thread::sleep(Duration::from_millis(millis));
        kill(run)?;
    }
    let once = deployment.attester(&["once"])?;
    let said = String::from_utf8_lossy(&once.stderr);
    ensure!(once.status.code() == Some(0), "{:?}\n{said}", once.status);
    let history = deployment.verifier_json(&["history", &id])?;
    let boots = history["history"].as_array().context("a history")?;
    let unknown = |row: &&serde_json::Value| row["verdict"] != "affirmed";
    let after: Vec<_> = boots.iter().skip_while(unknown).collect();
    ensure!(!after.is_empty() && !after.iter().any(unknown), "{boots:#?}");
    Ok(())
}

#[test]
fn a_power_cut_at_any_moment_makes_a_new_boot_and_no_alarm() -> Done {
    let (mut deployment, id) = affirmed()?;
    for millis in [0, 40, 90, 150, 230, 400] {
        let run = start(deployment.attester_command(&["run"])?)?;
        thread::sleep(Duration::from_millis(millis));
        // Without TPM2_Shutdown: its clock may be behind, and `safe` is off.
        deployment.tpm.power_off();
        kill(run)?;
        deployment.reboot()?;
    }
    let accepted = deployment.counter(&["evidence_accepted"])?;
    let run = start(deployment.attester_command(&["run"])?)?;
    deployment.eventually("evidence of the new boot", || Ok(deployment.counter(&["evidence_accepted"])? > accepted))?;
    deployment.eventually("a verdict", || {
        let device = deployment.verifier_json(&["device", &id])?;
        let causes = device["causes"].as_array().context("causes")?;
        // Boots that ended before they said anything are known to have been, and nothing else is amiss.
        let only_unseen = causes.iter().all(|cause| cause["code"] == "boot.unseen");
        Ok(only_unseen && (device["verdict"] == "affirmed" || device["verdict"] == "warning"))
    })?;
    kill(run)?;
    no_false_alarm(&deployment, &id)
}
