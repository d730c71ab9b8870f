//! Figures, each measured beside its limit in one run: `figures [NAME…] [--json FILE] [--seconds N]`, no name for all.
//! Run through `scripts/bench.sh`, which builds what is measured in release mode.

mod build_rate;
mod digest_index;
mod eventlog;
mod fleet;
mod memory;
mod rollout;

use std::{
    collections::BTreeMap,
    hint::black_box,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use devices::{
    judge::{Judge, references},
    software::{Attach, SoftwareDevice},
    swtpm::Swtpm,
};
use evidence::{cose, envelope::Envelope, topic::UpTopic};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Value, json};

/// One figure, as `scripts/bench.sh --json` writes it.
struct Figure {
    value: f64,
    unit: &'static str,
    limit: f64,
    limit_is: &'static str,
    better: &'static str,
    context: Value,
}

impl Figure {
    fn ratio(&self) -> f64 {
        self.value / self.limit
    }

    fn json(&self) -> Value {
        let Self { value, unit, limit, limit_is, better, context } = self;
        json!({ "value": value, "unit": unit, "limit": limit, "limit_is": limit_is, "ratio": self.ratio(),
                "better": better, "context": context })
    }
}

type Benchmark = fn(Duration) -> Result<Figure>;

const BENCHMARKS: [(&str, Benchmark); 8] = [
    ("appraise", appraise),
    ("build-rate", build_rate::build_rate),
    ("digest-index", digest_index::digest_index),
    ("eventlog", eventlog::eventlog),
    ("evidence-bytes", evidence_bytes),
    ("outage", fleet::outage),
    ("rollout", rollout::rollout),
    ("steady-state", fleet::steady_state),
];

#[derive(Parser)]
struct Arguments {
    /// Which figures; all without a name.
    names: Vec<String>,
    /// Writes the figures there as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How long each runs.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // `cargo test --benches` starts benchmarks too, to see that they start.
    let done = if arguments.bench { measure(&arguments) } else { Ok(ExitCode::SUCCESS) };
    done.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn measure(arguments: &Arguments) -> Result<ExitCode> {
    let known: Vec<&str> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = arguments.names.iter().find(|name| !known.contains(&name.as_str())) {
        eprintln!("bench: there is no benchmark named `{unknown}`; there are: {}", known.join(", "));
        return Ok(ExitCode::from(2));
    }
    let mut figures = BTreeMap::new();
    for (name, run) in BENCHMARKS {
        if arguments.names.is_empty() || arguments.names.iter().any(|wanted| wanted == name) {
            let figure = run(Duration::from_secs(arguments.seconds))?;
            println!(
                "{name}: {:.1} {}, limit {:.1} ({}), ratio {:.3}, {} is better, {}",
                figure.value,
                figure.unit,
                figure.limit,
                figure.limit_is,
                figure.ratio(),
                figure.better,
                figure.context
            );
            figures.insert(name, figure.json());
        }
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&figures)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Evidence with nothing new, bytes to appraisal on one core, beside two bare P-256 verifications. Both take turns in
/// short slices, so that a machine whose speed drifts slows both.
fn appraise(length: Duration) -> Result<Figure> {
    const SLICE: u32 = 100;
    let mut device = SoftwareDevice::new();
    device.run("/bin/init", [1; 32]);
    let mut judge = Judge::new(device.keys, references("1.0", &[("/bin/init", [1; 32])], &[(0, [0; 32])]));
    let first = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    judge.take(&first).map_err(|refused| anyhow::anyhow!("first evidence: {refused:?}"))?;
    let message = device.attest(&[judge.challenge()], Attach::Nothing);

    let envelope = Envelope::decode(&message)?;
    let quote = envelope.unverified_claims().quote.clone();
    let sign1 = cose::Sign1::decode("evidence", &message)?;
    let signed = cose::to_be_signed(sign1.protected, sign1.payload, &[]);
    let point = device.keys.ak.point().uncompressed();
    let bare = |message: &[u8], signature: &[u8]| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, black_box(point)).verify(message, signature).is_ok()
    };

    let (mut ours, mut limit, mut slices, mut cpu) = (Duration::ZERO, Duration::ZERO, 0_u32, Duration::ZERO);
    let end = Instant::now() + length;
    while Instant::now() < end {
        let (begin, cpu_before) = (Instant::now(), own_cpu()?);
        for _ in 0..SLICE {
            let appraisal = judge.appraise(black_box(&message)).ok().context("is judged")?;
            ensure!(black_box(appraisal).state.verdict == appraisal::Verdict::Affirmed, "is affirmed");
        }
        let between = Instant::now();
        cpu += own_cpu()? - cpu_before;
        for _ in 0..SLICE {
            ensure!(bare(&signed, sign1.signature) && bare(&quote.attest, &quote.signature), "signatures hold");
        }
        (ours, limit, slices) = (ours + (between - begin), limit + between.elapsed(), slices + 1);
    }
    let per_second = |time: Duration| f64::from(slices * SLICE) / time.as_secs_f64();
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(slices * SLICE);
    Ok(Figure {
        value: per_second(ours),
        unit: "evidence/s on one core",
        limit: per_second(limit),
        limit_is: "two bare ring P-256 verifications",
        better: "higher",
        context: json!({ "us_per_evidence": microseconds(ours), "cpu_us_per_evidence": microseconds(cpu),
                         "us_bare": microseconds(limit), "message_bytes": message.len() }),
    })
}

/// Time that this thread has run on a processor (Documentation/scheduler/sched-stats.rst).
fn own_cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().context("a field")?.parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// What `attester evidence --bare` makes on a software TPM, with one nonce and with three.
fn evidence_bytes(_: Duration) -> Result<Figure> {
    let attester = std::env::var_os("ATTESTER").context("ATTESTER must name the attester program")?;
    let tpm = Swtpm::try_start()?;
    let state = tempfile::tempdir()?;
    let size = |nonces: &[&str]| -> Result<(usize, usize)> {
        let out = state.path().join("evidence");
        let hex: Vec<String> = nonces.iter().map(|nonce| nonce.repeat(32)).collect();
        let status = Command::new(&attester)
            .args(["evidence", "--bare", "--nonce", &hex.join(","), "--out"])
            .arg(&out)
            .env("COUNTERSIGN_ATTESTER__TCTI", &tpm.tcti)
            .env("COUNTERSIGN_ATTESTER__STATE_DIR", state.path())
            .status()?;
        ensure!(status.success(), "attester evidence: {status}");
        let message = std::fs::read(&out)?;
        let device = Envelope::decode(&message)?.claimed_device();
        Ok((message.len(), publish_bytes(&UpTopic::Evidence(device).to_string(), message)?))
    };
    let (one, one_packet) = size(&["00"])?;
    let (three, three_packet) = size(&["00", "11", "22"])?;
    Ok(Figure {
        value: three as f64,
        unit: "bytes of COSE with three nonces",
        limit: 600.0,
        limit_is: "600 bytes",
        better: "lower",
        context: json!({ "one_nonce": one, "one_nonce_mqtt_packet": one_packet,
                         "three_nonces": three, "three_nonces_mqtt_packet": three_packet }),
    })
}

/// The MQTT 5 PUBLISH packet around it, QoS 1.
fn publish_bytes(topic: &str, payload: Vec<u8>) -> Result<usize> {
    use rumqttc::v5::mqttbytes::{QoS, v5::Publish};
    let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload, None);
    publish.pkid = 1;
    let mut packet = bytes::BytesMut::new();
    publish.write(&mut packet).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(packet.len())
}
