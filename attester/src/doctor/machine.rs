//! Logs, kernel, permissions, disk and clock.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use attester::{
    boot_log::{self, Source, Summary},
    config::Config,
    sweep::{Procfs, Sweeper},
};
use evidence::limits::MAX_MESSAGE;
use rustix::{
    fs::{Access, access, statvfs},
    process::geteuid,
};

use super::Line;
use crate::{
    state::StateDir,
    status::{Status, timestamp, unix_now},
};

/// The longest boot log that fits a message beside all else that the first one of a boot holds.
const ROOM_FOR_A_LOG: usize = MAX_MESSAGE - 4096;
/// What judges a device's boot without its log.
const EXACT_PCRS: &str = "have its release signed with exact PCRs (`reference-values build --boot-pcrs`)";
/// Free space below which a log may not fit, bytes: the runtime log's bound, twice.
const LITTLE_SPACE: u64 = 32 << 20;
/// Free space below which nothing fits, bytes.
const NO_SPACE: u64 = 1 << 20;
/// No clock that is right says an earlier time than this program was written at: 2026-01-01.
const WRITTEN: u64 = 1_767_225_600;
/// Nor one as late as this: 2100-01-01.
const TOO_LATE: u64 = 4_102_444_800;

/// All lines about the machine.
pub(super) fn look(config: &Config) -> Vec<Line> {
    let mut lines = boot(&boot_log::read(&config.boot_log), &config.boot_log);
    lines.extend([
        log(
            "ima list",
            &config.ima_log,
            "boot with `ima_policy=tcb ima_hash=sha256`, and mount securityfs; without it what ran and ended between two \
             sweeps is not seen",
        ),
        kernel(),
        permissions(),
        folder(&config.state_dir),
        clock(unix_now().as_secs()),
    ]);
    lines
}

/// The boot log, and what it proves of secure boot.
fn boot(log: &Source, path: &Path) -> Vec<Line> {
    const NAME: &str = "boot log";
    let bytes = match log {
        Source::Log(bytes) => bytes,
        Source::Absent(why) => {
            return vec![Line::warn(
                NAME,
                why,
                format!("turn on measured boot, and mount securityfs; or set `boot_log`; else {EXACT_PCRS}"),
            )];
        }
    };
    let shown = path.display();
    let summary = match Summary::read(bytes) {
        Ok(summary) => summary,
        Err(error) => return vec![Line::warn(NAME, format!("{shown}: {error}"), "set `boot_log` to this boot's log")],
    };
    let size = format!("{shown}, {} events in {} bytes", summary.events, bytes.len());
    let present = if bytes.len() > ROOM_FOR_A_LOG {
        Line::warn(NAME, format!("{size}: more than a message takes, so it is left out"), EXACT_PCRS)
    } else {
        Line::ok(NAME, size)
    };
    vec![present, secure_boot(summary.secure_boot)]
}

fn secure_boot(on: Option<bool>) -> Line {
    const NAME: &str = "secure boot";
    match on {
        Some(true) => Line::ok(NAME, "on, by the boot log"),
        Some(false) => Line::warn(NAME, "off, by the boot log", "turn it on in the firmware's setup, in user mode"),
        None => {
            Line::warn(NAME, "the boot log does not prove it", "boot by UEFI, and turn it on in the firmware's setup")
        }
    }
}

fn log(name: &str, path: &Path, remedy: &str) -> Line {
    match boot_log::read(path) {
        Source::Log(bytes) => Line::ok(name, format!("{}, {} bytes", path.display(), bytes.len())),
        Source::Absent(why) => Line::warn(name, why, remedy),
    }
}

fn kernel() -> Line {
    match Sweeper::new().map(|sweeper| sweeper.procfs()) {
        Ok(Procfs::Private) => Line::ok("kernel", "a private procfs can be mounted: nothing can be laid over it"),
        Ok(Procfs::Host) => Line::warn(
            "kernel",
            "the host's /proc is read, which root can lay something over",
            "run with CAP_SYS_ADMIN on Linux 5.2 or newer",
        ),
        Err(error) => Line::fail("kernel", error.to_string(), "mount procfs at /proc"),
    }
}

fn permissions() -> Line {
    let readable = fs::read_dir("/proc/1/map_files").is_ok();
    match (geteuid().is_root(), readable) {
        (true, true) => Line::ok("permissions", "root, and may look into every process"),
        (true, false) => Line::warn(
            "permissions",
            "root, and may not look into every process",
            "give the service CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, and CAP_SYS_PTRACE",
        ),
        (false, _) => Line::warn("permissions", "not root: other users' processes stay unmeasured", "run as root"),
    }
}

fn folder(path: &Path) -> Line {
    const NAME: &str = "state folder";
    let shown = path.display();
    let Ok(metadata) = fs::metadata(path) else {
        return Line::ok(NAME, format!("{shown} is made at the first start"));
    };
    if !metadata.is_dir() || access(path, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Line::fail(
            NAME,
            format!("{shown} is no folder that may be written to"),
            "name another with `state_dir`",
        );
    }
    let free = statvfs(path).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let mebibytes = free >> 20;
    if free < NO_SPACE {
        return Line::fail(NAME, format!("no room at {shown}"), "make room: without it nothing new is reported");
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o777;
        return Line::warn(NAME, format!("{shown} has mode {mode:o}"), format!("chmod 700 {shown}"));
    }
    if free < LITTLE_SPACE {
        return Line::warn(
            NAME,
            format!("{mebibytes} MiB are free at {shown}"),
            "make room: the runtime log may take 16 MiB",
        );
    }
    Line::ok(NAME, format!("{shown}, {mebibytes} MiB free"))
}

fn clock(now: u64) -> Line {
    if (WRITTEN..TOO_LATE).contains(&now) {
        return Line::ok("clock", timestamp(now));
    }
    Line::fail(
        "clock",
        format!("it says {}, which cannot be", timestamp(now)),
        "set it (NTP): certificates are valid by it; nothing else hangs on it",
    )
}

/// Whether the service runs, and what it says is wrong.
pub(super) fn service(running: bool, state: Option<&StateDir>) -> Line {
    let alarm = state.and_then(|state| Status::load(state).ok()).and_then(|status| status.alarm_text());
    match (running, alarm) {
        (true, Some(alarm)) => Line::fail("service", format!("runs, and raises an alarm: {alarm}"), "see its log"),
        (true, None) => Line::ok("service", "runs"),
        (false, _) => Line::warn("service", "does not run", "start it: attester run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_clock_that_cannot_be_right_fails() {
        assert_eq!(clock(0).level, Level::Fail);
        assert_eq!(clock(u64::MAX).level, Level::Fail);
        assert_eq!(clock(WRITTEN).level, Level::Ok);
    }

    #[test]
    fn a_state_folder_that_others_may_write_to_is_told_and_a_missing_one_is_made_later() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(folder(dir.path()).level, Level::Warn);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(folder(dir.path()).level, Level::Ok);
        assert_eq!(folder(&dir.path().join("none")).level, Level::Ok);
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert_eq!(folder(&file).level, Level::Fail);
    }

    #[test]
    fn an_absent_log_is_a_warning_with_its_path() {
        let path = Path::new("/nonexistent/log");
        let lines = [vec![log("ima list", path, "r")], boot(&boot_log::read(path), path)].concat();
        assert_eq!(lines.len(), 2, "nothing is said of secure boot");
        assert!(lines.iter().all(|line| line.level == Level::Warn && line.text.contains("/nonexistent/log")));
    }

    #[test]
    fn a_boot_log_tells_of_secure_boot_and_one_that_is_none_or_too_long_is_told() {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/boot");
        let levels = |log: &Source| boot(log, Path::new("/log")).iter().map(|line| line.level).collect::<Vec<_>>();
        let log = |name: &str| boot_log::read(&vectors.join(name).join("eventlog.bin"));
        assert_eq!(levels(&log("qemu-secureboot")), [Level::Ok, Level::Ok]);
        assert_eq!(levels(&log("qemu-good1")), [Level::Ok, Level::Warn]);
        assert_eq!(levels(&Source::Log(b"no log".to_vec())), [Level::Warn]);
        let mut long = log("qemu-secureboot").bytes().unwrap().to_vec();
        // Events without a meaning: EV_NO_ACTION, no digest.
        let event = [&[0; 4][..], &3_u32.to_le_bytes(), &[0; 4], &1024_u32.to_le_bytes(), &[0; 1024]].concat();
        (0..MAX_MESSAGE / event.len()).for_each(|_| long.extend(&event));
        assert_eq!(levels(&Source::Log(long)), [Level::Warn, Level::Ok]);
    }
}
