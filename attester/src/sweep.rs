//! What runs, seen from outside: in goes /proc, out comes every running executable and every file mapped executable,
//! with its SHA-256. A sweep sees what runs when it comes by; what began and ended between two sweeps it does not see.
//!
//! Files are reached through the kernel's own references (`/proc/PID/exe`, `/proc/PID/map_files`), so that what is hashed
//! is what is mapped: also when it was deleted, replaced, lives in memory only or in another mount namespace. Paths are
//! words. /proc is mounted privately where that is allowed, since a bind mount over /proc/PID fools a plain reader.

mod digest;
mod maps;

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
};

use evidence::runtime_log::Kind;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, StatxFlags, fstatfs, openat,
        openat2, readlinkat, statx,
    },
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};
use thiserror::Error;

use digest::{Digests, FileState};
use maps::Mapping;

/// Distinct files in one sweep: a machine runs a few thousand. What is over is counted, and the log says so.
const MAX_FILES: usize = 65_536;
/// One /proc/PID/maps, bytes: the kernel's default of 65,530 mappings with long paths.
const MAX_MAPS: u64 = 64 * 1024 * 1024;
/// Threads of a process looked at when its first thread has ended.
const MAX_THREADS: usize = 4096;
/// Kernel clock ticks per second as /proc shows them (USER_HZ).
const TICKS_PER_SECOND: u64 = 100;

/// A sweep could not be made at all.
#[derive(Debug, Error)]
pub enum SweepError {
    /// No procfs.
    #[error("/proc cannot be read: {0}. Is procfs mounted there?")]
    Procfs(io::Error),
}

/// Which procfs is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Procfs {
    /// A mount of our own that nobody can put something over.
    Private,
    /// The one at /proc: mounting needs CAP_SYS_ADMIN.
    Host,
}

/// A file that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasuredFile {
    /// Raw bytes, as the kernel shows them to us; words rather than evidence.
    pub path: Vec<u8>,
    /// SHA-256 of its content.
    pub digest: [u8; 32],
    /// Size, bytes.
    pub size: u64,
    /// Device number of its file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Executed, mapped, deleted or in memory only.
    pub kind: Kind,
    /// It was written to while it was hashed, each time that was tried.
    pub changed: bool,
    /// The digest comes from an earlier sweep.
    pub cached: bool,
    /// When the process began in which it was found first, seconds since boot.
    pub started: u64,
}

/// Something that runs and could not be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Path of the file, or of its place in /proc.
    pub path: Vec<u8>,
    /// Why not.
    pub reason: String,
}

/// What a sweep saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Each file once for each path that it has.
    pub files: Vec<MeasuredFile>,
    /// What runs, but could not be read.
    pub unreadable: Vec<Unreadable>,
    /// Files that were left out because there were too many.
    pub overflow: u64,
    /// Processes with memory of their own; kernel threads have none.
    pub processes: u64,
    /// Executable file mappings.
    pub mappings: u64,
    /// Executable mappings of no file: just-in-time compilers, and code that was injected.
    pub anonymous_executable: u64,
    /// Mappings that are executable and writable at once.
    pub writable_executable: u64,
    /// Processes whose executable is mapped nowhere: some hide what they run behind another's name.
    pub exe_not_mapped: u64,
    /// Bytes that were hashed.
    pub hashed_bytes: u64,
}

/// Sweeps over all processes.
#[derive(Debug)]
pub struct Sweeper {
    proc: OwnedFd,
    procfs: Procfs,
    digests: Digests,
}

impl Sweeper {
    /// Mounts procfs privately, or takes the one at /proc.
    ///
    /// # Errors
    /// [`SweepError::Procfs`].
    pub fn new() -> Result<Self, SweepError> {
        let (proc, procfs) = match private_procfs() {
            Ok(proc) => (proc, Procfs::Private),
            Err(_) => (host_procfs().map_err(|errno| SweepError::Procfs(errno.into()))?, Procfs::Host),
        };
        Ok(Self { proc, procfs, digests: Digests::default() })
    }

    /// Which procfs is read.
    #[must_use]
    pub const fn procfs(&self) -> Procfs {
        self.procfs
    }

    /// Looks at every process. One that ends meanwhile is no error.
    ///
    /// # Errors
    /// [`SweepError::Procfs`] where /proc itself cannot be listed.
    pub fn sweep(&mut self) -> Result<Sweep, SweepError> {
        let unlisted = |errno: Errno| SweepError::Procfs(errno.into());
        let pids = numeric_names(&self.proc, ".", usize::MAX).map_err(unlisted)?;
        self.digests.begin_sweep();
        let mut run = Run::new(&self.proc, &mut self.digests);
        for pid in pids {
            run.process(&pid);
        }
        let mut sweep = run.sweep;
        sweep.hashed_bytes = self.digests.end_sweep();
        Ok(sweep)
    }
}

/// A procfs of this PID namespace, mounted nowhere.
fn private_procfs() -> rustix::io::Result<OwnedFd> {
    let config = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(config.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(config.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn host_procfs() -> rustix::io::Result<OwnedFd> {
    let proc = openat(CWD, "/proc", OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if fstatfs(&proc)?.f_type == PROC_SUPER_MAGIC { Ok(proc) } else { Err(Errno::NODEV) }
}

/// Names in a directory that are numbers: processes, threads.
fn numeric_names(at: &OwnedFd, path: &str, most: usize) -> rustix::io::Result<Vec<String>> {
    let directory = openat(at, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(directory)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && name.bytes().all(|byte| byte.is_ascii_digit())
        {
            names.push(name.to_owned());
            if names.len() >= most {
                break;
            }
        }
    }
    Ok(names)
}

/// Where a file is found in /proc, and what is said about it there.
struct Found<'a> {
    /// Relative to /proc: `PID/exe` or `PID/map_files/RANGE`.
    place: String,
    path: &'a [u8],
    executed: bool,
    /// Inode number in /proc/PID/maps, where there is one.
    inode: Option<u64>,
}

/// One sweep under way.
struct Run<'a> {
    proc: &'a OwnedFd,
    digests: &'a mut Digests,
    sweep: Sweep,
    /// Files of this sweep by what statx says of them, so that each is hashed once.
    seen: HashMap<FileState, Option<MeasuredFile>>,
    /// Digest and path: what the log tells apart.
    reported: HashSet<([u8; 32], Vec<u8>)>,
    /// Paths in `unreadable`.
    unreadable: HashSet<Vec<u8>>,
}

impl<'a> Run<'a> {
    fn new(proc: &'a OwnedFd, digests: &'a mut Digests) -> Self {
        let (sweep, seen, reported, unreadable) = Default::default();
        Self { proc, digests, sweep, seen, reported, unreadable }
    }

    /// Everything there is to know about one process. Kernel threads have neither memory nor executable; a process whose
    /// first thread has ended shows its memory in the others only.
    fn process(&mut self, pid: &str) {
        if self.task(pid) {
            return;
        }
        for thread in numeric_names(self.proc, &format!("{pid}/task"), MAX_THREADS).unwrap_or_default() {
            // /proc/TID exists for every thread, listed or not.
            if thread != pid && self.task(&thread) {
                return;
            }
        }
    }

    /// Whether the task has memory, or can't be looked at.
    fn task(&mut self, pid: &str) -> bool {
        let maps = match read_all(self.proc, &format!("{pid}/maps")) {
            Ok(maps) => maps,
            Err(Errno::NOENT | Errno::SRCH) => return true,
            Err(errno) => {
                self.cannot_read(process_name(self.proc, pid), errno.to_string());
                return true;
            }
        };
        if maps.is_empty() {
            return false;
        }
        self.sweep.processes += 1;
        let executable = self.executable(pid);
        let mut executable_is_mapped = false;
        for mapping in maps.split(|&byte| byte == b'\n').filter_map(Mapping::parse_executable) {
            self.sweep.writable_executable += u64::from(mapping.writable);
            if mapping.inode == 0 {
                self.sweep.anonymous_executable += u64::from(!mapping.is_kernels());
                continue;
            }
            self.sweep.mappings += 1;
            let place = format!("{pid}/map_files/{}", mapping.range());
            let path = maps::unescape(mapping.path);
            let found = Found { place, path: &path, executed: false, inode: Some(mapping.inode) };
            executable_is_mapped |= self.file(pid, &found).is_some_and(|file| Some(file) == executable);
        }
        self.sweep.exe_not_mapped += u64::from(executable.is_some() && !executable_is_mapped);
        true
    }

    /// The program that the process was started from: device and inode.
    fn executable(&mut self, pid: &str) -> Option<(u64, u64)> {
        let place = format!("{pid}/exe");
        let path = readlinkat(self.proc, &place, Vec::new()).ok()?;
        self.file(pid, &Found { place, path: path.as_bytes(), executed: true, inode: None })
    }

    /// Measures one file unless it was measured before in this sweep. Device and inode, if it could be looked at.
    fn file(&mut self, pid: &str, found: &Found<'_>) -> Option<(u64, u64)> {
        let flags = StatxFlags::BASIC_STATS | digest::MNT_ID_UNIQUE;
        // No answer from a server is waited for: opening the file asks it anyway, once.
        let (state, mount) = match statx(self.proc, &found.place, AtFlags::STATX_DONT_SYNC, flags) {
            // Private memory of /dev/zero, a driver's memory: no file that could be measured.
            Ok(stat) if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile => {
                self.sweep.anonymous_executable += 1;
                return None;
            }
            Ok(stat) => (FileState::from(&stat), digest::mount_id(&stat)),
            Err(Errno::PERM | Errno::ACCESS) => return self.file_by_path(pid, found),
            Err(errno) => return self.gone_or_unreadable(found, errno),
        };
        let identity = Some((state.device, state.inode));
        if let Some(known) = self.seen.get(&state) {
            let alias = known.as_ref().filter(|file| file.path != found.path).cloned();
            if let Some(file) = alias {
                self.report(MeasuredFile { path: named(found.path, state.links), ..file });
            }
            return identity;
        }
        if self.seen.len() >= MAX_FILES {
            self.sweep.overflow += 1;
            return identity;
        }
        match self.digests.cached(mount, state.inode) {
            Some(digest) => self.measured(pid, found, state, digest, false, true),
            None => match openat(self.proc, &found.place, digest::OPEN, Mode::empty()) {
                Ok(file) => self.hash(pid, found, state, file),
                Err(errno) => return self.gone_or_unreadable(found, errno).or(identity),
            },
        }
        identity
    }

    fn hash(&mut self, pid: &str, found: &Found<'_>, state: FileState, file: OwnedFd) {
        match self.digests.hash(file) {
            Ok(hashed) => {
                self.seen.insert(state, None);
                self.measured(pid, found, hashed.state, hashed.digest, hashed.changed, false);
            }
            Err(reason) => {
                self.seen.insert(state, None);
                self.cannot_read(named(found.path, state.links), reason.to_string());
            }
        }
    }

    /// Without CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN /proc/PID/map_files is closed. The file at the path is measured
    /// if it is the mapped one by its inode; if not, the mapped one cannot be had.
    fn file_by_path(&mut self, pid: &str, found: &Found<'_>) -> Option<(u64, u64)> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match openat(self.proc, format!("{pid}/root"), directory, Mode::empty()) {
            Ok(root) => root,
            Err(errno) => return self.gone_or_unreadable(found, errno),
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let opened = openat2(&root, found.path, digest::OPEN, Mode::empty(), resolve)
            .and_then(|file| digest::look(&file).map(|(state, _)| (file, state)));
        match opened {
            Ok((file, state)) if found.inode == Some(state.inode) => {
                if !self.seen.contains_key(&state) {
                    self.hash(pid, found, state, file);
                }
                return Some((state.device, state.inode));
            }
            Ok(_) => self.cannot_read(found.path.to_vec(), "another file is at its path now".to_owned()),
            Err(errno) => self.cannot_read(found.path.to_vec(), errno.to_string()),
        }
        None
    }

    fn measured(
        &mut self,
        pid: &str,
        found: &Found<'_>,
        state: FileState,
        digest: [u8; 32],
        changed: bool,
        cached: bool,
    ) {
        let file = MeasuredFile {
            path: named(found.path, state.links),
            digest,
            size: state.size,
            device: state.device,
            inode: state.inode,
            kind: kind(found, state.links),
            changed,
            cached,
            started: start_time(self.proc, pid),
        };
        self.seen.insert(state, Some(file.clone()));
        self.report(file);
    }

    fn report(&mut self, file: MeasuredFile) {
        if self.sweep.files.len() >= MAX_FILES {
            self.sweep.overflow += 1;
        } else if self.reported.insert((file.digest, file.path.clone())) {
            self.sweep.files.push(file);
        }
    }

    /// A process or mapping that ended meanwhile is nothing to report.
    fn gone_or_unreadable(&mut self, found: &Found<'_>, errno: Errno) -> Option<(u64, u64)> {
        if !matches!(errno, Errno::NOENT | Errno::SRCH) {
            self.cannot_read(found.path.to_vec(), errno.to_string());
        }
        None
    }

    fn cannot_read(&mut self, path: Vec<u8>, reason: String) {
        if self.unreadable.len() >= MAX_FILES {
            self.sweep.overflow += 1;
        } else if self.unreadable.insert(path.clone()) {
            self.sweep.unreadable.push(Unreadable { path, reason });
        }
    }
}

/// The name of a file; what the kernel adds to that of a deleted one is taken off.
fn named(path: &[u8], links: u32) -> Vec<u8> {
    match path.strip_suffix(b" (deleted)") {
        Some(name) if links == 0 => name.to_vec(),
        _ => path.to_vec(),
    }
}

fn kind(found: &Found<'_>, links: u32) -> Kind {
    match (links, found.path.starts_with(b"/memfd:"), found.executed) {
        (0, true, _) => Kind::MemoryOnly,
        (0, false, _) => Kind::DeletedFile,
        (_, _, true) => Kind::Executable,
        (_, _, false) => Kind::MappedFile,
    }
}

/// A file of /proc, whole.
fn read_all(proc: &OwnedFd, place: &str) -> rustix::io::Result<Vec<u8>> {
    let file = openat(proc, place, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut content = Vec::new();
    let read = std::fs::File::from(file).take(MAX_MAPS).read_to_end(&mut content);
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(content)
}

/// What stands for a process that can't be looked into: not its number, since each new one would be news to the log.
fn process_name(proc: &OwnedFd, pid: &str) -> Vec<u8> {
    let name = read_all(proc, &format!("{pid}/comm")).unwrap_or_default();
    [b"/proc/*/maps of ", name.trim_ascii_end()].concat()
}

/// Field 22 of /proc/PID/stat, in seconds; 0 where the process has ended. The name in field 2 may hold anything, so that
/// fields are counted from its last parenthesis.
fn start_time(proc: &OwnedFd, pid: &str) -> u64 {
    let stat = read_all(proc, &format!("{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(|&byte| byte == b')').next().unwrap_or_default();
    let field = after_name.split(|&byte| byte == b' ').filter(|field| !field.is_empty()).nth(19);
    let ticks = field.and_then(|field| std::str::from_utf8(field).ok()?.parse::<u64>().ok());
    ticks.unwrap_or(0) / TICKS_PER_SECOND
}

#[cfg(test)]
mod tests;
