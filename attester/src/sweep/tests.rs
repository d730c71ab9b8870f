use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use evidence::pcr::sha256;
use rustix::fs::{MemfdFlags, memfd_create};
use tempfile::TempDir;

use super::*;

/// A running copy of cat(1) that has answered once: its program and libraries are mapped. It ends with the value.
struct Running(Child);

impl Running {
    fn start(program: &Path, preload: Option<&Path>) -> Self {
        let mut command = Command::new(program);
        if let Some(library) = preload {
            command.env("LD_PRELOAD", library);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"?\n").unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        assert_eq!(answer, "?\n");
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A copy of `original` with something of its own at the end, which ELF ignores.
fn copy(dir: &TempDir, original: &str, name: &str) -> (PathBuf, Vec<u8>) {
    let mut content = fs::read(original).unwrap();
    content.extend(dir.path().to_str().unwrap().bytes());
    let path = dir.path().join(name);
    fs::copy(original, &path).unwrap();
    fs::write(&path, &content).unwrap();
    (path, content)
}

fn a_library() -> String {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("libc.so"));
    // Any library will do that the loader takes twice.
    Path::new(libc.unwrap()).with_file_name("libm.so.6").to_str().unwrap().to_owned()
}

fn find<'a>(sweep: &'a Sweep, content: &[u8]) -> Option<&'a MeasuredFile> {
    let digest = sha256(content);
    sweep.files.iter().find(|file| file.digest == digest)
}

fn sweep() -> Sweep {
    Sweeper::new().unwrap().sweep().unwrap()
}

#[test]
fn a_running_program_is_seen_once_with_its_digest_and_path() {
    let dir = tempfile::tempdir().unwrap();
    let (program, content) = copy(&dir, "/bin/cat", "program");
    let _running = [Running::start(&program, None), Running::start(&program, None)];
    let sweep = sweep();
    let file = find(&sweep, &content).unwrap();
    assert_eq!((file.path.as_slice(), file.kind), (program.to_str().unwrap().as_bytes(), Kind::Executable));
    assert_eq!((file.size, file.changed), (content.len() as u64, false));
    assert_eq!(sweep.files.iter().filter(|other| other.digest == file.digest).count(), 1);
    assert!(sweep.processes > 1 && sweep.mappings > sweep.processes);
}

#[test]
fn a_preloaded_library_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (library, content) = copy(&dir, &a_library(), "preloaded.so");
    let _running = Running::start(Path::new("/bin/cat"), Some(&library));
    assert_eq!(find(&sweep(), &content).unwrap().kind, Kind::MappedFile);
}

#[test]
fn a_program_in_memory_only_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (_, content) = copy(&dir, "/bin/cat", "program");
    let memory = memfd_create("[kworker/0:1]", MemfdFlags::empty()).unwrap();
    File::from(memory.try_clone().unwrap()).write_all(&content).unwrap();
    let _running = Running::start(Path::new(&format!("/proc/self/fd/{}", memory.as_raw_fd())), None);
    let sweep = sweep();
    let file = find(&sweep, &content).unwrap();
    assert_eq!((file.kind, file.path.as_slice()), (Kind::MemoryOnly, b"/memfd:[kworker/0:1]".as_slice()));
}

#[test]
fn a_deleted_or_replaced_program_is_measured_as_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (program, content) = copy(&dir, "/bin/cat", "program");
    let _running = Running::start(&program, None);
    fs::remove_file(&program).unwrap();
    fs::write(&program, b"something harmless").unwrap();
    let sweep = sweep();
    let file = find(&sweep, &content).unwrap();
    assert_eq!((file.kind, file.path.as_slice()), (Kind::DeletedFile, program.to_str().unwrap().as_bytes()));
    assert_eq!(find(&sweep, b"something harmless"), None);
}

#[test]
fn a_mapped_file_that_is_rewritten_at_once_is_never_reported_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let (library, mut content) = copy(&dir, &a_library(), "library.so");
    let _running = Running::start(Path::new("/bin/cat"), Some(&library));
    let mut sweeper = Sweeper::new().unwrap();
    let last = content.len() - 1;
    for round in 0..20 {
        assert!(find(&sweeper.sweep().unwrap(), &content).is_some(), "round {round}");
        // Same size, same inode, often within one tick of the clock that stamps files.
        content[last] = round;
        let mut file = OpenOptions::new().write(true).open(&library).unwrap();
        file.seek(SeekFrom::Start(last as u64)).unwrap();
        file.write_all(&[round]).unwrap();
    }
}

#[test]
fn a_process_whose_first_thread_has_ended_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("leaderless.c");
    let program = dir.path().join("leaderless");
    fs::write(
        &source,
        "#include <pthread.h>\n#include <unistd.h>\n#include <stdio.h>\n\
         static void *stay(void *leader) { pthread_join(*(pthread_t *)leader, 0); puts(\"?\"); fflush(stdout);\n\
         for (;;) pause(); }\n\
         int main(void) { static pthread_t self, t; self = pthread_self(); pthread_create(&t, 0, stay, &self);\n\
         pthread_exit(0); }\n",
    )
    .unwrap();
    let compiled = Command::new("cc").arg("-pthread").arg(&source).arg("-o").arg(&program).status();
    if !compiled.is_ok_and(|status| status.success()) {
        eprintln!("skipped: needs a C compiler");
        return;
    }
    let _running = Running::start(&program, None);
    assert!(find(&sweep(), &fs::read(&program).unwrap()).is_some());
}

#[test]
fn names_that_the_kernel_marks_as_deleted_are_told_from_names_that_end_so() {
    assert_eq!(named(b"/a (deleted)", 0), b"/a");
    assert_eq!(named(b"/a (deleted)", 1), b"/a (deleted)");
}
