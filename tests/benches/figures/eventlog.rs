//! Evidence with a boot log of 50 KB, bytes to appraisal, beside the SHA-256 and ECDSA work that is in it: two signatures,
//! each byte of the message and of the log hashed once, each event extended once, and once more the data that a digest
//! vouches for.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use appraisal::Verdict;
use devices::{
    judge::{Judge, PRODUCT, index, sign},
    software::{Attach, SoftwareDevice},
};
use evidence::{
    cose,
    envelope::Envelope,
    eventlog::{Content, EFI_CERT_SHA256, EV_EFI_VARIABLE_DRIVER_CONFIG, EV_IPL, EventLog, Proof, signatures},
    pcr::{HashAlgorithm, extend_sha256, sha256},
};
use reference_values::{
    BootRules, Content as Holds, Executable, Release,
    boot_rules::{CommandLine, Given, key_of},
};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::json;

use crate::{Figure, own_cpu};

/// A boot with secure boot on, of a virtual machine.
const BOOT: &[u8] = include_bytes!("../../vectors/boot/qemu-secureboot/eventlog.bin");
const TOLD: &str = "console=ttyS0 panic=-1 quiet ima_policy=tcb ima_template=ima-ng ima_hash=sha256";
const SIZE: usize = 50_000;
/// Entries that firmware forbids at the beginning of 2026, about (dbxupdate.bin of the UEFI Forum).
const FORBIDDEN: u32 = 430;
const INIT: [u8; 32] = [1; 32];
/// Judgements before the limit takes its turn.
const SLICE: u32 = 50;

/// See the module.
pub(crate) fn eventlog(length: Duration) -> Result<Figure> {
    let log = large_log()?;
    let mut device = SoftwareDevice::new();
    device.boots_by(&log);
    device.run("/bin/init", INIT);
    let mut judge = Judge::new(device.keys, index(vec![sign(release(&log)?)]));
    let message = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    let work = Work::of(&message, &log)?;

    let (mut ours, mut limit, mut cpu, mut rounds) = (Duration::ZERO, Duration::ZERO, Duration::ZERO, 0_u32);
    let end = Instant::now() + length;
    while Instant::now() < end {
        let (begin, cpu_before) = (Instant::now(), own_cpu()?);
        for _ in 0..SLICE {
            let appraisal = judge.appraise(black_box(&message)).ok().context("is judged")?;
            ensure!(black_box(&appraisal).state.verdict == Verdict::Affirmed, "{:?}", appraisal.state.causes);
        }
        let between = Instant::now();
        cpu += own_cpu()? - cpu_before;
        for _ in 0..SLICE {
            work.done(&device)?;
        }
        (ours, limit, rounds) = (ours + (between - begin), limit + between.elapsed(), rounds + SLICE);
    }
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(rounds);
    Ok(Figure {
        value: microseconds(ours),
        unit: "µs an evidence with the log",
        limit: microseconds(limit),
        limit_is: "the SHA-256 and ECDSA work in it; up to twice that is fine",
        better: "lower",
        context: json!({ "log_bytes": log.len(), "events": work.extended.len(), "hashed_bytes": work.bytes(),
                         "cpu_us": microseconds(cpu), "message_bytes": message.len() }),
    })
}

fn release(log: &[u8]) -> Result<Release> {
    let given = Given { command_lines: vec![CommandLine::exact(TOLD)?], ..Given::default() };
    let (rules, _) = BootRules::from_logs(&[EventLog::read(log)?], given)?;
    let executables = vec![Executable { digest: INIT, path: "/bin/init".into() }];
    let content = Holds { executables, boot_rules: vec![rules], ..Holds::default() };
    Ok(Release::with_content(PRODUCT, "1.0", 1, content)?)
}

/// The boot with as many forbidden images as machines have, and a boot loader that measures its commands.
fn large_log() -> Result<Vec<u8>> {
    let log = EventLog::read(BOOT)?;
    let mut out = BOOT[..32 + u32::from_le_bytes(BOOT[28..32].try_into()?) as usize].to_vec();
    let mut append = |pcr: u32, event_type: u32, digest: &[u8], data: &[u8]| {
        for number in [pcr, event_type, 1] {
            out.extend(number.to_le_bytes());
        }
        out.extend(HashAlgorithm::Sha256.tpm_id().to_le_bytes());
        out.extend(digest);
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(data);
        out.len()
    };
    for event in log.events().skip(1) {
        let event = event?;
        match event.content() {
            Content::Variable(dbx) if event.event_type == EV_EFI_VARIABLE_DRIVER_CONFIG && dbx.name() == "dbx" => {
                let list = forbidden();
                let data = [&event.data[..24], &(list.len() as u64).to_le_bytes(), dbx.name_utf16, &list].concat();
                append(event.pcr, event.event_type, &sha256(&data), &data);
            }
            _ => {
                _ = append(
                    event.pcr,
                    event.event_type,
                    event.digest(HashAlgorithm::Sha256).context("digest")?,
                    event.data,
                )
            }
        }
    }
    for number in 0.. {
        let command = format!("menuentry 'Linux {number}' --class gnu-linux --class os $menuentry_id_option");
        let data = [b"grub_cmd: ", command.as_bytes(), b"\0"].concat();
        if append(8, EV_IPL, &sha256(command.as_bytes()), &data) >= SIZE {
            break;
        }
    }
    Ok(out)
}

/// EFI_SIGNATURE_LIST (UEFI §32.4.1).
fn forbidden() -> Vec<u8> {
    let length = 28 + 48 * FORBIDDEN;
    let mut out = [&EFI_CERT_SHA256.0[..], &length.to_le_bytes(), &0_u32.to_le_bytes(), &48_u32.to_le_bytes()].concat();
    for number in 0..FORBIDDEN {
        out.extend([7; 16]);
        out.extend(sha256(&number.to_le_bytes()));
    }
    out
}

/// What has to be computed whoever appraises.
struct Work {
    signed: Vec<([u8; 64], Vec<u8>)>,
    hashed: Vec<Vec<u8>>,
    extended: Vec<[u8; 32]>,
    databases: Vec<Vec<u8>>,
}

impl Work {
    fn of(message: &[u8], log: &[u8]) -> Result<Self> {
        let quote = Envelope::decode(message)?.unverified_claims().quote.clone();
        let sign1 = cose::Sign1::decode("evidence", message)?;
        let signed = vec![
            (*sign1.signature, cose::to_be_signed(sign1.protected, sign1.payload, &[])),
            (quote.signature, quote.attest),
        ];
        let mut work = Self { signed, hashed: vec![message.to_vec()], extended: Vec::new(), databases: Vec::new() };
        for event in EventLog::read(log)?.events() {
            let event = event?;
            let Some(digest) = event.digest(HashAlgorithm::Sha256).filter(|_| event.extends()) else { continue };
            work.extended.push(digest.try_into()?);
            if event.proof(HashAlgorithm::Sha256) != Proof::Nothing {
                work.hashed.push(event.data.to_vec());
            }
            if let Content::Variable(variable) = event.content()
                && event.event_type == EV_EFI_VARIABLE_DRIVER_CONFIG
                && ["PK", "KEK", "db", "dbx"].contains(&variable.name().as_str())
            {
                work.databases.push(variable.data.to_vec());
            }
        }
        Ok(work)
    }

    fn bytes(&self) -> usize {
        self.hashed.iter().map(Vec::len).sum()
    }

    fn done(&self, device: &SoftwareDevice) -> Result<()> {
        let point = device.keys.ak.point().uncompressed();
        for (signature, message) in &self.signed {
            let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, black_box(point));
            ensure!(key.verify(message, signature).is_ok(), "signatures hold");
        }
        for bytes in &self.hashed {
            black_box(sha256(black_box(bytes)));
        }
        let mut value = [0; 32];
        for digest in &self.extended {
            value = extend_sha256(&value, black_box(digest));
        }
        for database in &self.databases {
            for entry in signatures(black_box(database)) {
                black_box(key_of(&entry?));
            }
        }
        black_box(value);
        Ok(())
    }
}
