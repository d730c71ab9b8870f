//! The TPM, its keys, and the runtime log's PCR.

use attester::{
    boot_log::{self, Summary},
    config::Config,
    runtime_log::{LogProblem, RuntimeLog, Standing},
    tpm::{Tpm, TpmConfig, TpmError, has_resource_manager},
};

use super::Line;

/// What an owner does who wants to know more of a TPM that one program has.
const STOP: &str = "stop the service to look closer";

/// All lines about the TPM. `running`: the service runs.
pub(super) fn look(config: &Config, running: bool) -> Vec<Line> {
    let busy = running && !has_resource_manager(&config.tcti);
    if busy {
        return vec![Line::ok("tpm", format!("{}: in use by the running attester; {STOP}", config.tcti))];
    }
    let mut tpm = match Tpm::open(&TpmConfig::from(config)) {
        Ok(tpm) => tpm,
        Err(error) => return vec![refused(&error)],
    };
    let mut lines = vec![properties(&mut tpm), attestation_key(&tpm), endorsement(&mut tpm)];
    let bank = bank(&mut tpm);
    let has_bank = bank.level == super::Level::Ok;
    lines.push(bank);
    if has_bank {
        lines.extend(boot_pcrs(config, &mut tpm));
        lines.push(runtime_log(config, &mut tpm));
    }
    lines
}

fn refused(error: &TpmError) -> Line {
    match error {
        TpmError::EndorsementHierarchy(_) => Line::fail(
            "endorsement hierarchy",
            error.to_string(),
            "set `endorsement_auth`, or enable the hierarchy in the firmware's setup",
        ),
        TpmError::Tcti(_) => Line::fail("tpm", error.to_string(), "correct `tcti`"),
        TpmError::Command { .. } => Line::fail(
            "attestation key",
            error.to_string(),
            "a TPM 2.0 with ECC P-256 and ECDSA-SHA-256 is needed: see its data sheet, and update its firmware",
        ),
        _ => Line::fail(
            "tpm",
            error.to_string(),
            "enable it in the firmware's setup, load its driver (tpm_tis, tpm_crb), run as root or in the group `tss`",
        ),
    }
}

fn properties(tpm: &mut Tpm) -> Line {
    let tcti = tpm.tcti().to_owned();
    match tpm.properties() {
        Ok(is) => {
            let (high, low) = is.firmware;
            let version = format!("{}.{}.{}.{}", high >> 16, high & 0xFFFF, low >> 16, low & 0xFFFF);
            let revision = f64::from(is.revision) / 100.0;
            Line::ok("tpm", format!("{tcti}: {} firmware {version}, revision {revision:.2}", is.manufacturer))
        }
        Err(error) => Line::warn("tpm", format!("{tcti}: {error}"), "update its firmware"),
    }
}

/// It was made when the TPM was opened, in the endorsement hierarchy.
fn attestation_key(tpm: &Tpm) -> Line {
    let name = data_encoding::HEXLOWER.encode(&tpm.ak_public().name_digest()[..8]);
    Line::ok("attestation key", format!("made, its name begins {name}; the endorsement hierarchy is open"))
}

fn endorsement(tpm: &mut Tpm) -> Line {
    const NAME: &str = "endorsement certificate";
    match tpm.endorsement_keys() {
        Ok(keys) if keys.certified() => {
            let kinds: Vec<String> = keys.keys.iter().map(|key| format!("{:?}", key.kind)).collect();
            Line::ok(NAME, format!("{}, and {} of issuers", kinds.join(", "), keys.chain.len()))
        }
        Ok(keys) => {
            let id = keys.id().map(|id| data_encoding::HEXLOWER.encode(&id)).unwrap_or_default();
            Line::warn(
                NAME,
                format!("this TPM holds none, and nobody vouches for it; the device's id is {id}"),
                "write it with tpm2_nvwrite where the maker offers it for download, or have the verifier's operator list \
                 this id; a software TPM gets one with `swtpm_setup --create-ek-cert`",
            )
        }
        Err(error) => {
            Line::fail(NAME, error.to_string(), "update the TPM's firmware, or clear it in the firmware's setup")
        }
    }
}

/// The SHA-256 bank.
fn bank(tpm: &mut Tpm) -> Line {
    const NAME: &str = "pcr bank";
    match tpm.pcr_values() {
        Ok(_) => Line::ok(NAME, "SHA-256 is active"),
        Err(error) => {
            Line::fail(NAME, error.to_string(), "activate the SHA-256 bank (firmware's setup, or tpm2_pcrallocate)")
        }
    }
}

/// Whether the boot log leads to what is in the PCRs; nothing without one, of which there is a line already.
fn boot_pcrs(config: &Config, tpm: &mut Tpm) -> Option<Line> {
    const NAME: &str = "boot log's pcrs";
    let log = boot_log::read(&config.boot_log);
    let summary = Summary::read(log.bytes()?).ok()?;
    let differs = summary.differs(&tpm.pcr_values().ok()?);
    if differs.is_empty() {
        return Some(Line::ok(NAME, "the boot log leads to PCRs 0 to 9"));
    }
    let pcrs: Vec<String> = differs.iter().map(u32::to_string).collect();
    let what = format!("the boot log does not lead to PCR {}", pcrs.join(", "));
    Some(if summary.pcrs.is_empty() {
        Line::warn(NAME, format!("{what}: it holds no SHA-256 digests"), "activate the SHA-256 bank, and boot again")
    } else {
        Line::warn(
            NAME,
            what,
            "set `boot_log` to this boot's log; if it is, a verifier will say contraindicated: find out who extended them",
        )
    })
}

fn runtime_log(config: &Config, tpm: &mut Tpm) -> Line {
    let name = format!("runtime log (PCR {})", config.runtime_pcr.index());
    if !config.state_dir.is_dir() {
        return Line::ok(name, "not begun: there is no state folder yet");
    }
    let boot = boot_log::read(&config.boot_log);
    let start = boot_log::runtime_start(boot.bytes(), config.runtime_pcr);
    match RuntimeLog::look(&config.state_dir, config.runtime_pcr, start, tpm) {
        Ok(Standing::NotBegun) => Line::ok(name, "not begun, and its PCR is free"),
        Ok(Standing::Good { entries, extended }) if entries == extended => {
            Line::ok(name, format!("{entries} entries, which lead to the PCR"))
        }
        Ok(Standing::Good { entries, extended }) => Line::warn(
            name,
            format!("{entries} entries, of which the PCR has seen {extended}: an extend failed or was interrupted"),
            "the next measurement goes on there; if this stays, see the line about the TPM",
        ),
        Ok(Standing::Problem(problem)) => Line::fail(name, problem.to_string(), remedy(problem)),
        Err(error) => Line::fail(name, error.to_string(), "give it a `state_dir` that it may write to"),
    }
}

const fn remedy(problem: LogProblem) -> &'static str {
    match problem {
        LogProblem::Start => {
            "name a PCR that nobody extends with `runtime_pcr` (12 to 15), and keep `state_dir` over restarts"
        }
        LogProblem::Mismatch => "find out who changed the log or extended the PCR; a reboot begins a new log",
    }
}
