//! The index of digests at the size of a large maker: 100 products with 10 releases of 5,000 files each, which share
//! files as products of a few distributions do. In time per look-up beside a binary search, in bytes per digest, in
//! seconds from signed files to answers, and in how long a thread that appraises waits while another swaps the index.

use std::{
    collections::HashMap,
    hint::black_box,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use appraisal::Verdict;
use devices::{
    judge::{Judge, index, signed},
    software::{Attach, SoftwareDevice},
};
use evidence::pcr::sha256;
use reference_values::{
    Endorsed, Endorsements, Executable, ReferenceIndex, Release, Required, Retired, Role, SignedDocument, SigningKey,
    Trust, TrustedSigner, VerifiedDocument,
};
use ring::rand::SystemRandom;
use serde_json::json;
use tokio::sync::watch;

use crate::{Figure, memory};

const PRODUCTS: u32 = 100;
const RELEASES: u32 = 10;
/// Files of a package; an update replaces all of them.
const PACKAGE: u32 = 20;
/// Distributions that the products are built on, and the packages that a product takes of its own.
const DISTRIBUTIONS: u32 = 5;
/// Packages of a distribution in a release. With [`OWN_PACKAGES`]: 5,000 files.
const DISTRIBUTION_PACKAGES: u32 = 200;
const OWN_PACKAGES: u32 = 50;
/// Of 100 packages of a distribution, those that differ from one release of a product to the next, and of its own.
const DISTRIBUTION_UPDATES: u32 = 4;
const OWN_UPDATES: u32 = 20;
const KEYS: u32 = 1_000_000;
const KEY_ROUNDS: usize = 10;
/// Serials as device makers print them.
const SERIAL: usize = 12;
const NOW: u64 = 1_800_000_000;
/// Within whose bounds the figure's context stays.
const BYTES_PER_DIGEST: f64 = 64.0;

/// Which edition of a package a release has: each update gives one to `percent` of the packages, in turn.
fn edition(package: u32, updates: u32, percent: u32) -> u32 {
    (updates * percent + package * 37 % 100) / 100
}

/// Files of one release: those of its distribution are the same for all products at that state.
fn files(product: u32, release: u32) -> Vec<Executable> {
    let state = product % 7 + release;
    let shared = (0..DISTRIBUTION_PACKAGES).map(|package| {
        (format!("dist {}", product % DISTRIBUTIONS), package, edition(package, state, DISTRIBUTION_UPDATES))
    });
    let own =
        (0..OWN_PACKAGES).map(|package| (format!("own {product}"), package, edition(package, release, OWN_UPDATES)));
    let file = |(owner, package, edition): (String, u32, u32)| {
        (0..PACKAGE).map(move |file| Executable {
            digest: sha256(format!("{owner} {package} {edition} {file}").as_bytes()),
            path: format!("/usr/lib/x86_64-linux-gnu/package{package}/file{file}"),
        })
    };
    shared.chain(own).flat_map(file).collect()
}

/// Who signs everything.
struct Maker {
    key: SigningKey,
    trust: Trust,
    random: SystemRandom,
}

impl Maker {
    fn new() -> Result<Self> {
        let random = SystemRandom::new();
        let key = SigningKey::from_pem(&SigningKey::generate(&random).map_err(|error| anyhow!("{error:?}"))?)?;
        let mut trust = Trust::default();
        trust.add(TrustedSigner {
            name: "ACME".into(),
            role: Role::Manufacturer,
            key: key.public().clone(),
            products: vec!["*".into()],
            not_after: None,
        })?;
        Ok(Self { key, trust, random })
    }

    fn file(&self, document: SignedDocument) -> Result<Vec<u8>> {
        Ok(document.sign(&self.key, Role::Manufacturer, &self.random)?.encode())
    }

    fn read(&self, path: &Path) -> Result<VerifiedDocument> {
        let bytes = std::fs::read(path)?;
        Ok(SignedDocument::decode(&bytes)?.verify(&self.trust, NOW)?)
    }

    /// All releases as signed files.
    fn write_releases(&self, folder: &Path) -> Result<()> {
        for product in 0..PRODUCTS {
            for release in 0..RELEASES {
                let name = format!("acme/product{product}");
                let content =
                    Release::new(&name, &release.to_string(), release.into(), files(product, release), vec![])?;
                let path = folder.join(format!("{product}-{release}.corim"));
                std::fs::write(path, self.file(SignedDocument::unsigned(content))?)?;
            }
        }
        Ok(())
    }

    /// From signed files to an index, with more documents beside.
    fn compile(&self, folder: &Path, more: Vec<VerifiedDocument>) -> Result<ReferenceIndex> {
        let mut verified = more;
        for entry in std::fs::read_dir(folder)? {
            verified.push(self.read(&entry?.path())?);
        }
        Ok(ReferenceIndex::build(verified, &Required::default(), NOW)?.index)
    }
}

/// The figure.
pub(crate) fn digest_index(length: Duration) -> Result<Figure> {
    let (maker, folder) = (Maker::new()?, tempfile::tempdir()?);
    maker.write_releases(folder.path())?;
    let begin = Instant::now();
    let (index, bytes, peak) = memory::of(|| maker.compile(folder.path(), Vec::new()));
    let (index, compile) = (index?, begin.elapsed());
    let bytes_per_digest = bytes as f64 / index.len() as f64;
    let (ours, bare) = look_ups(&index, length)?;
    let distinct = index.len();
    drop(index);
    let endorsed = endorsements(&maker)?;
    let pauses = pauses(&maker, folder.path())?;
    let context = json!({
        "listed": PRODUCTS * RELEASES * (DISTRIBUTION_PACKAGES + OWN_PACKAGES) * PACKAGE,
        "distinct": distinct,
        "bytes_per_digest": bytes_per_digest,
        "bytes_per_digest_limit": BYTES_PER_DIGEST,
        "lookup_ns_limit": 150,
        "compile_s": compile.as_secs_f64(),
        "compile_s_limit": 10,
        "compile_peak_mib": peak / (1 << 20),
        "endorsed_keys": KEYS,
        "bytes_per_key_beside_serial": endorsed.bytes,
        "key_lookup_ns": endorsed.nanoseconds,
        "swap_pause_us": pauses.swap.as_secs_f64() * 1e6,
        "swap_pause_us_limit": 1000,
        "pause_while_compiling_us": pauses.compile.as_secs_f64() * 1e6,
    });
    Ok(Figure {
        value: ours,
        unit: "ns per look-up",
        limit: bare,
        limit_is: "binary search over sorted digests in memory",
        better: "lower",
        context,
    })
}

/// Numbers that look drawn, the same in every run.
fn scattered(seed: u32) -> u32 {
    let digest = sha256(&seed.to_be_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// What devices ask for, in an order that no cache expects: a file of their product, and one in ten that none has.
fn questions() -> Vec<(String, [u8; 32])> {
    let mut known = HashMap::<(u32, u32), Vec<Executable>>::new();
    let one = |n: u32| {
        let (product, release) = (scattered(n) % PRODUCTS, scattered(n + 1) % RELEASES);
        let files = known.entry((product, release)).or_insert_with(|| files(product, release));
        let file = files[scattered(n + 2) as usize % files.len()].digest;
        let digest = if n.is_multiple_of(10) { sha256(&file) } else { file };
        (format!("acme/product{product}"), digest)
    };
    (0..200_000).map(|n| n * 3).map(one).collect()
}

/// Nanoseconds per look-up, ours and bare, in turns; the best round of each, as what else runs only slows.
fn look_ups(index: &ReferenceIndex, length: Duration) -> Result<(f64, f64)> {
    let questions = questions();
    let asked = questions
        .iter()
        .map(|(product, digest)| Ok((index.product(product).context("a product")?, *digest)))
        .collect::<Result<Vec<_>>>()?;
    let mut sorted = (0..PRODUCTS)
        .flat_map(|product| (0..RELEASES).map(move |release| (product, release)))
        .flat_map(|(product, release)| files(product, release).into_iter().map(|file| file.digest))
        .collect::<Vec<_>>();
    sorted.sort_unstable();
    sorted.dedup();
    ensure!(sorted.len() == index.len(), "the index holds what was signed");
    let (mut ours, mut bare) = (Duration::MAX, Duration::MAX);
    let end = Instant::now() + length;
    while ours == Duration::MAX || Instant::now() < end {
        let begin = Instant::now();
        let found = asked.iter().filter(|(product, digest)| product.executable(black_box(digest)).is_some()).count();
        let between = Instant::now();
        let limit = asked.iter().filter(|(_, digest)| sorted.binary_search(black_box(digest)).is_ok()).count();
        (ours, bare) = (ours.min(between - begin), bare.min(between.elapsed()));
        ensure!(black_box(found) == black_box(limit) && found * 10 == asked.len() * 9, "both find the same");
    }
    let each = |time: Duration| time.as_secs_f64() * 1e9 / asked.len() as f64;
    Ok((each(ours), each(bare)))
}

struct OfKeys {
    /// Beside the serial's own text.
    bytes: f64,
    nanoseconds: f64,
}

/// A million endorsement keys in ten lists.
fn endorsements(maker: &Maker) -> Result<OfKeys> {
    let ek = |n: u32| sha256(format!("ek {n}").as_bytes());
    let mut verified = Vec::new();
    for list in 0..10 {
        let of_list = (0..KEYS).filter(|n| n % 10 == list);
        let entries = of_list.map(|n| Endorsed { ek: ek(n), serial: format!("SN{n:010}") }).collect();
        let product = format!("acme/product{list}");
        let document = Endorsements::new(&product, "line", 1, None, entries)?;
        let file = maker.file(SignedDocument::unsigned(document))?;
        verified.push(SignedDocument::decode(&file)?.verify(&maker.trust, NOW)?);
    }
    let index = ReferenceIndex::build(verified, &Required::default(), NOW)?.index;
    let questions: Vec<[u8; 32]> = (0..200_000).map(|n| ek(scattered(n) % KEYS)).collect();
    let mut best = Duration::MAX;
    for _ in 0..KEY_ROUNDS {
        let begin = Instant::now();
        let found = questions.iter().filter(|ek| index.endorsed(black_box(ek)).is_some()).count();
        best = best.min(begin.elapsed());
        ensure!(found == questions.len(), "every key is found");
    }
    ensure!(index.endorsed_keys() == KEYS as usize, "every key is held");
    let nanoseconds = best.as_secs_f64() * 1e9 / questions.len() as f64;
    let with = memory::used();
    drop(index);
    let bytes = (with - memory::used()) as f64 / f64::from(KEYS) - SERIAL as f64;
    Ok(OfKeys { bytes, nanoseconds })
}

struct Pauses {
    /// Around the swap itself, until the old index is gone.
    swap: Duration,
    /// While the new index is compiled on another thread.
    compile: Duration,
}

/// What the thread that swaps is at.
const COMPILING: usize = 0;
const SWAPPING: usize = 1;
const DONE: usize = 2;

/// The longest gaps between appraisals on one thread while another compiles and swaps; the best of five, as what else
/// runs on the machine makes gaps too. The index that is replaced is as large as the new one, and held by the busy
/// thread when it is.
fn pauses(maker: &Maker, folder: &Path) -> Result<Pauses> {
    let (release, trust) = signed("1.0", &[("/bin/init", [1; 32])], &[(0, [0; 32])]);
    let own = release.clone().verify(&trust, NOW)?;
    let (indices, current) = watch::channel(Arc::new(maker.compile(folder, vec![own.clone()])?));
    let mut device = SoftwareDevice::new();
    device.run("/bin/init", [1; 32]);
    let mut judge = Judge::new(device.keys, index(vec![(release, trust)]));
    let first = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    judge.take(&first).map_err(|refused| anyhow!("first evidence: {refused:?}"))?;
    let message = device.attest(&[judge.challenge()], Attach::Nothing);
    let mut best = Pauses { swap: Duration::MAX, compile: Duration::MAX };
    for _ in 0..5 {
        let phase = AtomicUsize::new(COMPILING);
        let swap = || {
            let compiled = maker.compile(folder, vec![own.clone()]).map(|index| {
                phase.store(SWAPPING, Ordering::SeqCst);
                replace(&indices, index);
            });
            phase.store(DONE, Ordering::SeqCst);
            compiled
        };
        let one = thread::scope(|scope| {
            let swapper = scope.spawn(swap);
            let gaps = longest_gaps(&judge, &current, &message, &phase);
            swapper.join().map_err(|_| anyhow!("the swapping thread panicked"))??;
            gaps
        })?;
        best = Pauses { swap: best.swap.min(one.swap), compile: best.compile.min(one.compile) };
    }
    Ok(best)
}

/// As the service does it.
fn replace(indices: &watch::Sender<Arc<ReferenceIndex>>, index: ReferenceIndex) {
    let mut retired = Retired::default();
    retired.keep(Arc::clone(&indices.borrow()));
    indices.send_replace(Arc::new(index));
    while retired.drop_unused() > 0 {
        thread::yield_now();
    }
}

/// From the end of one appraisal to the end of the next, so that no part of one is left out.
fn longest_gaps(
    judge: &Judge,
    current: &watch::Receiver<Arc<ReferenceIndex>>,
    message: &[u8],
    phase: &AtomicUsize,
) -> Result<Pauses> {
    let mut longest = [Duration::ZERO; 3];
    let mut last = Instant::now();
    loop {
        let during = phase.load(Ordering::SeqCst);
        let references = Arc::clone(&current.borrow());
        let appraisal = judge.appraise_by(&references, black_box(message)).map_err(|refused| anyhow!("{refused:?}"))?;
        ensure!(appraisal.state.verdict == Verdict::Affirmed, "is affirmed");
        let now = Instant::now();
        longest[during] = longest[during].max(now - last);
        last = now;
        if during == DONE {
            return Ok(Pauses { swap: longest[SWAPPING].max(longest[DONE]), compile: longest[COMPILING] });
        }
    }
}
