//! How fast `reference-values build` measures a root file system that is in memory, beside bare SHA-256 of the files in
//! it that run, on all cores too. Both take turns, so that a machine whose speed drifts slows both.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ring::digest::{Context, SHA256};
use serde_json::json;

use crate::Figure;

/// How many files of which size run, as in a product with a few large programs.
const FILES: [(usize, usize); 5] = [(1500, 24 << 10), (600, 200 << 10), (60, 4 << 20), (6, 48 << 20), (1, 256 << 20)];
/// Files beside them that do not.
const OTHERS: usize = 3000;
const BLOCK: usize = 128 << 10;

pub(crate) fn build_rate(length: Duration) -> Result<Figure> {
    let program =
        std::env::var_os("REFERENCE_VALUES").context("REFERENCE_VALUES must name the reference-values program")?;
    let folder = tempfile::tempdir()?;
    let files = lay(&folder.path().join("root"))?;
    let bytes = files.iter().map(|(_, size)| *size as u64).sum::<u64>();
    let build = || -> Result<Duration> {
        let begin = Instant::now();
        let status = Command::new(&program)
            .args(["build", "--product", "p", "--release", "1", "--rootfs", "root", "-o", "out"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "reference-values build: {status}");
        Ok(begin.elapsed())
    };
    // Once without a clock, so that everything is in memory.
    build()?;
    bare(&files)?;
    let (mut ours, mut limit, mut turns) = (Duration::ZERO, Duration::ZERO, 0_u32);
    let end = Instant::now() + length;
    while turns < 3 || Instant::now() < end {
        (ours, limit, turns) = (ours + build()?, limit + bare(&files)?, turns + 1);
    }
    let rate = |time: Duration| bytes as f64 * f64::from(turns) / time.as_secs_f64() / 1e6;
    Ok(Figure {
        value: rate(ours),
        unit: "MB/s",
        limit: rate(limit),
        limit_is: "SHA-256 of the same files from memory on all cores",
        better: "higher",
        context: json!({ "files": files.len(), "other_files": OTHERS, "megabytes": bytes / 1_000_000, "turns": turns,
                         "cores": thread::available_parallelism()?.get() }),
    })
}

/// Lays the files, and lists those that run, the largest first.
fn lay(root: &Path) -> Result<Vec<(PathBuf, usize)>> {
    let mut files = Vec::new();
    let mut number = 0_u64;
    for (count, size) in FILES.into_iter().rev() {
        for _ in 0..count {
            let folder = root.join(format!("usr/lib/{}", number % 40));
            fs::create_dir_all(&folder)?;
            let path = folder.join(format!("library-{number}.so"));
            let mut content = vec![0; size];
            content[..4].copy_from_slice(b"\x7fELF");
            for at in (8..size.saturating_sub(8)).step_by(512) {
                content[at..at + 8].copy_from_slice(&(number << 32 | at as u64).to_le_bytes());
            }
            File::create(&path)?.write_all(&content)?;
            files.push((path, size));
            number += 1;
        }
    }
    for other in 0..OTHERS {
        fs::write(root.join(format!("usr/lib/{}/data-{other}", other % 40)), vec![b'a'; 3000])?;
    }
    Ok(files)
}

/// Hashes the files on all cores.
fn bare(files: &[(PathBuf, usize)]) -> Result<Duration> {
    let begin = Instant::now();
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut block = vec![0; BLOCK];
        while let Some((path, _)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut file = File::open(path)?;
            let mut context = Context::new(&SHA256);
            loop {
                match file.read(&mut block)? {
                    0 => break,
                    read => context.update(&block[..read]),
                }
            }
            std::hint::black_box(context.finish());
        }
        Ok(())
    };
    let cores = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let workers = (0..cores).map(|_| scope.spawn(work)).collect::<Vec<_>>();
        workers.into_iter().try_for_each(|worker| worker.join().expect("hashing does not panic"))
    })?;
    Ok(begin.elapsed())
}
