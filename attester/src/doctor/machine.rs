//! Logs, kernel, permissions, disk and clock.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use attester::{
    boot_log::{self, Source},
    config::Config,
    sweep::{Procfs, Sweeper},
};
use rustix::{
    fs::{Access, access, statvfs},
    process::geteuid,
};

use super::Line;
use crate::{
    state::StateDir,
    status::{Status, timestamp, unix_now},
};

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
    vec![
        log("boot log", &config.boot_log, "turn on measured boot, and mount securityfs; or set `boot_log`"),
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
    ]
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
        let line = log("boot log", Path::new("/nonexistent/log"), "r");
        assert!(line.level == Level::Warn && line.text.contains("/nonexistent/log"));
    }
}
