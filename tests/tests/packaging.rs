//! What the packages hold besides programs: units that systemd takes, an IMA policy that leaves nothing out that can run,
//! and an initramfs tree in which the attester attests. Needs root, and `cargo build --workspace --bins` before.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, ensure};
use devices::deployment::{Deployment, GOOD, PRODUCT, program, succeeded};

type Done = anyhow::Result<()>;

/// How exposed systemd finds each service, in tenths, at most.
const EXPOSURE: [(&str, u32); 2] = [("countersign-attester.service", 30), ("countersign-attested.service", 9)];

fn packaging(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging")).join(path)
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// The units, with the attester where it was built to, beside one that waits for the verdict.
fn units() -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let attester = program("attester")?.get_program().to_str().context("a path")?.to_owned();
    for file in fs::read_dir(packaging("systemd"))? {
        let file = file?.path();
        if file.extension().is_some_and(|kind| kind == "service" || kind == "target") {
            let text = fs::read_to_string(&file)?.replace("/usr/bin/attester", &attester);
            fs::write(folder.path().join(file.file_name().context("a name")?), text)?;
        }
    }
    let waits = "Requires=countersign-attested.target\nAfter=countersign-attested.target\n";
    let payload = format!("[Unit]\n{waits}[Service]\nExecStart=/bin/true\n");
    fs::write(folder.path().join("payload.service"), payload)?;
    Ok(folder)
}

fn has_systemd() -> bool {
    Command::new("systemd-analyze").arg("--version").output().is_ok()
}

#[test]
fn systemd_takes_the_units_without_a_word() -> Done {
    if !has_systemd() {
        eprintln!("skipped: no systemd-analyze here");
        return Ok(());
    }
    let units = units()?;
    let drop_in = units.path().join("countersign-attester.service.d");
    fs::create_dir(&drop_in)?;
    let adopt = packaging("initramfs/countersign-adopt").display().to_string();
    let text = fs::read_to_string(packaging("initramfs/countersign-attester.service.d-initramfs.conf"))?;
    ensure!(text.contains("/usr/lib/countersign/countersign-adopt"));
    fs::write(drop_in.join("initramfs.conf"), text.replace("/usr/lib/countersign/countersign-adopt", &adopt))?;
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(units.path().join("payload.service"))
        .arg(units.path().join("countersign-attester.service"))
        .output()?;
    let ours = |line: &&str| line.contains("countersign") || line.contains("payload");
    let complaints: Vec<_> = said(&verified).lines().filter(ours).map(ToOwned::to_owned).collect();
    ensure!(verified.status.success() && complaints.is_empty(), "{complaints:#?}");
    Ok(())
}

#[test]
fn services_may_do_no_more_than_they_need() -> Done {
    if !has_systemd() {
        eprintln!("skipped: no systemd-analyze here");
        return Ok(());
    }
    for (unit, at_most) in EXPOSURE {
        let rated = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", &format!("--threshold={at_most}")])
            .arg(packaging("systemd").join(unit))
            .output()?;
        ensure!(rated.status.success(), "{unit}:\n{}", said(&rated));
    }
    Ok(())
}

#[test]
fn the_ima_policy_measures_whatever_can_run() -> Done {
    let policy = fs::read_to_string(packaging("ima/policy"))?;
    let rules: Vec<_> = policy.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let (excluded, measured): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.starts_with("dont_measure "));
    let measured: BTreeSet<_> = measured.into_iter().copied().collect();
    let expected = [
        "measure func=BPRM_CHECK mask=MAY_EXEC",
        "measure func=MMAP_CHECK mask=MAY_EXEC",
        "measure func=MODULE_CHECK",
        "measure func=FIRMWARE_CHECK",
        "measure func=KEXEC_KERNEL_CHECK",
        "measure func=KEXEC_INITRAMFS_CHECK",
        "measure func=KEXEC_CMDLINE",
        "measure func=POLICY_CHECK",
        "measure func=CRITICAL_DATA",
    ];
    ensure!(measured == expected.into(), "{measured:#?}");
    // Linux's magic.h: what a program can be written to. tmpfs, ramfs, overlayfs, ext4, squashfs, fuse.
    let writable = ["0x1021994", "0x858458f6", "0x794c7630", "0xef53", "0x73717368", "0x65735546"];
    for rule in excluded {
        let magic = rule.strip_prefix("dont_measure fsmagic=").context("file systems alone are left out")?;
        ensure!(!writable.contains(&magic.replace("0x0", "0x").as_str()), "{rule}");
    }
    // The kernel reads a rule into a page.
    ensure!(policy.lines().all(|line| line.len() < 4096) && policy.is_ascii());
    Ok(())
}

/// An initramfs tree with busybox and what `countersign-copy` puts into it.
fn tree(deployment: &Deployment, settings: &str) -> anyhow::Result<tempfile::TempDir> {
    let tree = tempfile::tempdir()?;
    let path = |name: &str| tree.path().join(name);
    for folder in ["bin", "dev", "proc", "sys", "run", "etc", "newroot"] {
        fs::create_dir(path(folder))?;
    }
    fs::copy("/bin/busybox", path("bin/busybox"))?;
    let applets = Command::new("/bin/busybox").arg("--list").output()?;
    for applet in String::from_utf8(applets.stdout)?.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", path("bin").join(applet))?;
    }
    let config = tempfile::NamedTempFile::new()?;
    let initramfs_config = tempfile::NamedTempFile::new()?;
    let shipped = fs::read_to_string(packaging("initramfs/initramfs.conf"))?;
    fs::write(&initramfs_config, format!("{shipped}\n{settings}"))?;
    let text = fs::read_to_string(deployment.state_dir.with_file_name("attester.toml"))?;
    fs::write(&config, format!("boot_log = \"/boot.log\"\n{text}"))?;
    let copy = Command::new(packaging("initramfs/countersign-copy"))
        .arg(tree.path())
        .env("ATTESTER", program("attester")?.get_program())
        .env("CONFIG", config.path())
        .env("INITRAMFS_CONFIG", initramfs_config.path())
        .env("IMA_POLICY", packaging("ima/policy"))
        .env("TCTI", "libtss2-tcti-swtpm.so.0")
        .output()?;
    succeeded("countersign-copy", &copy)?;
    fs::copy(GOOD.log, path("boot.log"))?;
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755))?;
    Ok(tree)
}

/// `countersign-initramfs` in a tree, as `/init` calls it, in namespaces of its own.
fn boot(tree: &Path, then: &str) -> anyhow::Result<Output> {
    // A pseudo terminal of the host's is not in there; /dev/null is.
    let init = "mount --bind /dev \"$0/dev\" && mount --bind /proc \"$0/proc\" && exec chroot \"$0\" /bin/sh -c \"$1\"";
    let script = format!("/usr/sbin/countersign-initramfs /newroot; {then}");
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", init]);
    Ok(unshare.arg(tree).arg(script).env_clear().env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin").output()?)
}

/// Signs a release of what runs in the tree.
fn sign_release_of(tree: &Path, deployment: &Deployment) -> Done {
    let root = tempfile::tempdir()?;
    let copied = Command::new("cp")
        .arg("-a")
        .arg(tree.join("bin"))
        .arg(tree.join("usr"))
        .arg(tree.join("lib"))
        .arg(tree.join("lib64"))
        .arg(root.path())
        .output()?;
    succeeded("cp", &copied)?;
    deployment.sign_release("initramfs", root.path())
}

#[test]
fn an_initramfs_goes_on_once_it_is_affirmed_and_the_real_root_goes_on_from_there() -> Done {
    let mut deployment = Deployment::start()?;
    let tree = tree(&deployment, "network=none timeout=20 on_failure=continue\n")?;
    fs::copy(packaging("initramfs/countersign-adopt"), tree.path().join("bin/adopt"))?;
    sign_release_of(tree.path(), &deployment)?;

    let stranger = boot(tree.path(), "true")?;
    ensure!(said(&stranger).contains("the verifier warns: the boot goes on all the same"), "{}", said(&stranger));
    let id = deployment.device_id()?;
    succeeded("approve", &deployment.verifier(&["approve", &id, "--product", PRODUCT])?)?;

    deployment.reboot()?;
    // What the real root kept of the boot before: nothing, but somebody laid a trap there.
    let kept = tree.path().join("newroot/var/lib/countersign/attester");
    fs::create_dir_all(&kept)?;
    let config = tree.path().join("etc/countersign/attester.toml");
    symlink("/etc/countersign/attester.toml", kept.join("status.json"))?;
    let before = fs::read(&config)?;
    let real_root = "export STATE_DIRECTORY=/newroot/var/lib/countersign/attester; sh /bin/adopt && \
                     COUNTERSIGN_ATTESTER__STATE_DIR=$STATE_DIRECTORY attester once; echo once: $?";
    let affirmed = boot(tree.path(), real_root)?;
    ensure!(said(&affirmed).contains("affirmed: the boot goes on"), "{}", said(&affirmed));
    ensure!(said(&affirmed).contains("once: 0"), "its runtime log goes on: {}", said(&affirmed));
    ensure!(deployment.device_id()? == id, "enrolled anew, it is the same device");
    ensure!(fs::read(&config)? == before && kept.join("runtime.log").is_file());
    Ok(())
}

#[test]
fn what_the_initramfs_measured_is_adopted_and_its_verdict_is_not() -> Done {
    let folder = tempfile::tempdir()?;
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    for (dir, names) in [(&from, ["runtime.log", "status.json"]), (&to, ["runtime.log", "status.json"])] {
        fs::create_dir(dir)?;
        for name in names {
            fs::write(dir.join(name), dir.display().to_string())?;
        }
    }
    let script = fs::read_to_string(packaging("initramfs/countersign-adopt"))?;
    let script = script.replace("/run/countersign/attester", &from.display().to_string());
    for _ in 0..2 {
        let done = Command::new("sh").args(["-c", &script]).env("STATE_DIRECTORY", &to).output()?;
        succeeded("adopt", &done)?;
    }
    ensure!(fs::read_to_string(to.join("runtime.log"))? == from.display().to_string());
    ensure!(!to.join("status.json").exists() && !from.exists());
    Ok(())
}
