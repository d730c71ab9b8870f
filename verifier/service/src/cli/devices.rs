//! Commands that ask the running service: `devices`, `device`, `history`, `approve`, `revoke`, `check`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use appraisal::{Code, Verdict};
use clap::Args;
use evidence::claims::DeviceId;

use super::{
    FAILED, MALFORMED, USAGE,
    service::{Failure, Service, Which, finish},
    show::{self, Row, cell, printable, table},
};
use crate::{
    client::with_query,
    http::{
        api::{
            AllowJson, AllowedJson, AllowedKeyJson, ApproveJson, AttestedJson, CauseJson, DeviceJson, DevicesJson,
            HistoryJson, InformationJson, OperatorLogJson, PresentBootJson, RevokeJson, SummaryJson,
        },
        problem::Kind,
    },
    identity::{read_ek, read_ids, read_product},
    limits::{MAX_ALLOWED_FILE, MAX_CHECK_WAIT},
    store::Allowed,
};

/// Files shown of one device, where the rest is one option away.
const FILES_SHOWN: usize = 20;

/// Lists devices
#[derive(Debug, Args)]
pub(super) struct DevicesArgs {
    #[command(flatten)]
    service: Service,
    /// With this verdict: affirmed, warning, contraindicated, unknown
    #[arg(long)]
    verdict: Option<String>,
    /// Whose verdict has expired
    #[arg(long)]
    overdue: bool,
    /// On which a file with this SHA-256 runs
    #[arg(long, value_name = "SHA256")]
    running: Option<String>,
    /// With this cause (docs/causes.md)
    #[arg(long, value_name = "CODE")]
    cause: Option<String>,
    /// Of this product
    #[arg(long)]
    product: Option<String>,
    /// On this release
    #[arg(long)]
    release: Option<String>,
    /// With this label
    #[arg(long, value_name = "KEY=VALUE")]
    label: Option<String>,
    /// At most so many, 1 to 1000
    #[arg(long)]
    limit: Option<usize>,
    /// Those after this one: `next` of the page before
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

/// Shows one device: who it is, its verdict and why, and what runs on it
#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    #[command(flatten)]
    service: Service,
    #[command(flatten)]
    which: Which,
}

/// Shows how a device's verdict changed, oldest first; without a device, what operators did that is about none
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    service: Service,
    /// Its id, or the first 8 or more of its digits
    id: Option<String>,
}

/// Admits a device and says which product it is; ends a revocation. Or lists endorsement keys whose TPMs have no certificate
#[derive(Debug, Args)]
pub(super) struct ApproveArgs {
    #[command(flatten)]
    service: Service,
    /// Its id, or the first 8 or more of its digits
    #[arg(required_unless_present_any = ["ek_pub", "ids"], conflicts_with_all = ["ek_pub", "ids"])]
    id: Option<String>,
    /// Which product it is
    #[arg(long, conflicts_with = "ids")]
    product: Option<String>,
    /// Lets the device with this endorsement key enrol without a certificate of its TPM's maker: TPM2B_PUBLIC,
    /// TPMT_PUBLIC or PEM
    #[arg(long, value_name = "FILE", conflicts_with = "ids")]
    ek_pub: Option<PathBuf>,
    /// The same for many devices, and which products they are: `id` or `id,product` on each line
    #[arg(long, value_name = "CSV")]
    ids: Option<PathBuf>,
}

/// Shuts a device out
#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    service: Service,
    #[command(flatten)]
    which: Which,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    why: String,
}

/// Asks a device for fresh evidence now; the exit code is the verdict
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    service: Service,
    #[command(flatten)]
    which: Which,
    /// How long to wait for its answer
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=MAX_CHECK_WAIT))]
    wait: u64,
}

pub(super) fn devices(args: &DevicesArgs) -> ExitCode {
    finish((|| {
        let mut query = Vec::new();
        for (name, value) in [
            ("verdict", args.verdict.clone()),
            ("overdue", args.overdue.then(|| "true".to_owned())),
            ("running", args.running.clone()),
            ("cause", args.cause.clone()),
            ("product", args.product.clone()),
            ("release", args.release.clone()),
            ("label", args.label.clone()),
            ("limit", args.limit.map(|limit| limit.to_string())),
            ("after", args.after.clone()),
        ] {
            query.extend(value.map(|value| (name, value)));
        }
        let answer = args.service.client()?.get(&with_query("/v1/devices", &query))?;
        let page: DevicesJson = args.service.show(&answer, devices_text)?;
        if let Some(next) = page.next.filter(|_| !args.service.json) {
            eprintln!("{} of {}; the next ones: --after {next}", page.devices.len(), page.total);
        }
        Ok(0)
    })())
}

pub(super) fn device(args: &DeviceArgs) -> ExitCode {
    finish((|| {
        let answer = args.service.client()?.get(&args.which.path("")?)?;
        args.service.show(&answer, device_text)?;
        Ok(0)
    })())
}

pub(super) fn history(args: &HistoryArgs) -> ExitCode {
    finish((|| {
        match &args.id {
            Some(id) => {
                let path = Which { id: id.clone() }.path("/history")?;
                args.service.show(&args.service.client()?.get(&path)?, history_text)?;
            }
            None => {
                args.service.show(&args.service.client()?.get("/v1/operator-log")?, operator_log_text)?;
            }
        }
        Ok(0)
    })())
}

pub(super) fn approve(args: &ApproveArgs) -> ExitCode {
    finish((|| {
        if let Some(keys) = listed(args)? {
            let answer = args.service.client()?.post("/v1/allowed", &AllowJson { keys }, Duration::ZERO)?;
            args.service.show(&answer, |answer: &AllowedJson| {
                format!("listed {} endorsement keys, {} of them new\n", answer.listed, answer.new)
            })?;
            return Ok(0);
        }
        let which = Which { id: args.id.clone().unwrap_or_default() };
        let body = ApproveJson { product: args.product.clone() };
        let answer = args.service.client()?.post(&which.path("/approve")?, &body, Duration::ZERO)?;
        args.service.show(&answer, |device: &DeviceJson| {
            let product = device.summary.product.as_deref().unwrap_or("none yet: name one with --product");
            format!("approved {}; product: {}\n", device.summary.id, printable(product))
        })?;
        Ok(0)
    })())
}

/// The keys to be listed, where a file names some.
fn listed(args: &ApproveArgs) -> Result<Option<Vec<AllowedKeyJson>>, Failure> {
    let read = |file: &Path| {
        let bytes = std::fs::metadata(file).and_then(|data| match data.len() {
            0..=MAX_ALLOWED_FILE => std::fs::read(file),
            _ => Err(std::io::ErrorKind::FileTooLarge.into()),
        });
        bytes.map_err(|error| Failure(format!("cannot read {}: {error}", file.display()), FAILED))
    };
    let malformed = |file: &Path, why: String| Failure(format!("{}: {why}", file.display()), MALFORMED);
    if let Some(file) = &args.ek_pub {
        let key = read_ek(&read(file)?).map_err(|error| malformed(file, error.to_string()))?;
        let product = args.product.as_deref().map(read_product).transpose();
        let product = product.map_err(|why| Failure(format!("--product: {why}"), USAGE))?;
        return Ok(Some(vec![AllowedKeyJson { id: DeviceId(key.digest()).to_string(), product }]));
    }
    let Some(file) = &args.ids else { return Ok(None) };
    let text = String::from_utf8(read(file)?).map_err(|_| malformed(file, "this is not UTF-8 text".to_owned()))?;
    let ids = read_ids(&text).map_err(|error| malformed(file, error.to_string()))?;
    let key = |allowed: Allowed| AllowedKeyJson { id: DeviceId(allowed.digest).to_string(), product: allowed.product };
    Ok(Some(ids.into_iter().map(key).collect()))
}

pub(super) fn revoke(args: &RevokeArgs) -> ExitCode {
    finish((|| {
        let body = RevokeJson { why: args.why.clone() };
        let answer = args.service.client()?.post(&args.which.path("/revoke")?, &body, Duration::ZERO)?;
        args.service.show(&answer, |device: &DeviceJson| format!("revoked {}\n", device.summary.id))?;
        Ok(0)
    })())
}

pub(super) fn check(args: &CheckArgs) -> ExitCode {
    finish((|| {
        let path = with_query(&args.which.path("/check")?, &[("wait", args.wait.to_string())]);
        match args.service.client()?.post(&path, &serde_json::json!({}), Duration::from_secs(args.wait)) {
            Ok(answer) => {
                let device: DeviceJson = args.service.show(&answer, device_text)?;
                Ok(device.summary.verdict.exit_code())
            }
            // No answer, no verdict.
            Err(error) if error.kind() == Some(Kind::CheckTimeout) => {
                Err(Failure(error.to_string(), Verdict::Unknown.exit_code()))
            }
            Err(error) => Err(error.into()),
        }
    })())
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

/// Each code once, however many details it has.
fn codes(causes: &[CauseJson]) -> String {
    let mut codes: Vec<&str> = Vec::new();
    for cause in causes {
        if !codes.contains(&cause.code.as_str()) {
            codes.push(&cause.code);
        }
    }
    if codes.is_empty() { "-".to_owned() } else { codes.join(" ") }
}

fn devices_text(page: &DevicesJson) -> String {
    let row = |device: &SummaryJson| -> Row {
        vec![
            cell(&device.id),
            show::verdict(device.verdict),
            cell(or_dash(device.product.as_deref())),
            cell(or_dash(device.release.as_deref())),
            cell(or_dash(device.expires.as_deref())),
            cell(or_dash(device.last_evidence.as_deref())),
            cell(codes(&device.causes)),
        ]
    };
    if page.devices.is_empty() {
        return "no device matches\n".to_owned();
    }
    let heads = ["DEVICE", "VERDICT", "PRODUCT", "RELEASE", "EXPIRES", "LAST EVIDENCE", "CAUSES"];
    table(&heads, page.devices.iter().map(row).collect())
}

fn device_text(device: &DeviceJson) -> String {
    let mut text = table(&["", ""], facts(device));
    text += &causes_text(&device.summary.causes);
    if device.files > 0 {
        let row = |file: &crate::http::api::FileJson| vec![cell(&file.sha256), cell(&file.kind), cell(&file.path)];
        text += &table(&["SHA-256", "KIND", "PATH"], device.running.iter().take(FILES_SHOWN).map(row).collect());
        if device.files > FILES_SHOWN as u64 {
            text += &format!("{FILES_SHOWN} of {} files; more of them: --json\n", device.files);
        }
    }
    text
}

/// What is known of a device besides causes and files, a line each.
fn facts(device: &DeviceJson) -> Vec<Row> {
    let DeviceJson { summary, identity, .. } = device;
    let evidence = summary.last_evidence.as_deref().map(|at| {
        let why = summary.last_check.as_deref().unwrap_or("-");
        format!("{at} ({why})")
    });
    let tpm = if identity.ek_certificate {
        let make = [identity.manufacturer.as_str(), &identity.model, &identity.version];
        let make = make.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        format!("{make} ({})", class_name(identity.ek_class))
    } else {
        "no endorsement certificate: listed by an operator".to_owned()
    };
    let mut facts: Vec<Row> = vec![
        vec![cell("device"), cell(&summary.id)],
        vec![cell("verdict"), show::verdict(summary.verdict)],
        vec![cell("expires"), cell(or_dash(summary.expires.as_deref()))],
        vec![cell("last evidence"), cell(or_dash(evidence.as_deref()))],
        vec![cell("product"), cell(or_dash(summary.product.as_deref()))],
        vec![cell("release"), cell(or_dash(summary.release.as_deref()))],
        vec![cell("tpm"), cell(tpm)],
        vec![cell("enrolled"), cell(&identity.first_seen)],
    ];
    if !summary.labels.is_empty() {
        facts.push(vec![cell("labels"), cell(labels_text(&summary.labels))]);
    }
    facts.extend(identity.serial.iter().map(|serial| vec![cell("serial"), cell(serial)]));
    facts.extend(identity.denied.iter().map(|denied| vec![cell("endorsement"), cell(&denied.detail)]));
    if identity.generation > 1 {
        facts.push(vec![cell("generation"), cell(identity.generation.to_string())]);
    }
    facts.extend(identity.key_changed.iter().map(|at| vec![cell("key changed"), cell(at)]));
    facts.extend(identity.revoked.iter().map(|why| vec![cell("revoked"), cell(why)]));
    facts.extend(device.compromised.iter().map(|finding| {
        vec![cell("compromised"), cell(format!("{} {}: {}", finding.since, finding.code, finding.detail))]
    }));
    facts.extend(device.boot.iter().flat_map(boot_rows));
    facts.extend(device.attested.iter().map(|attested| vec![cell("attested"), cell(attested_text(attested))]));
    facts.extend(
        device.claims.iter().map(|(name, claim)| {
            vec![cell(format!("claim {name}")), cell(format!("{} ({})", claim.tier, claim.value))]
        }),
    );
    facts.extend(summary.tolerated.iter().map(|code| vec![cell("tolerated"), cell(code)]));
    facts.extend(
        device
            .vouched
            .iter()
            .map(|vouched| vec![cell("vouched for by"), cell(format!("{} ({})", vouched.signer, vouched.role))]),
    );
    facts.extend(device.excluded.iter().map(|excluded| {
        let first = excluded.paths.join(", ");
        vec![cell("let through by exclusions"), cell(format!("{} files, the first: {first}", excluded.count))]
    }));
    facts.extend(device.information.iter().map(|information| {
        let InformationJson { code, detail, first_seen } = information;
        vec![cell("information"), cell(format!("{first_seen} {code}: {detail}"))]
    }));
    facts
}

fn boot_rows(boot: &PresentBootJson) -> Vec<Row> {
    let PresentBootJson { secure_boot, command_line, kernel, events, reset, restart } = boot;
    let secure_boot = match secure_boot {
        Some(true) => "on",
        Some(false) => "off",
        None => "not shown",
    };
    let log = if *events == 0 { "no boot log".to_owned() } else { format!("{events} events") };
    let mut rows = vec![vec![cell("boot"), cell(format!("{reset}.{restart}: {log}, secure boot {secure_boot}"))]];
    rows.extend(kernel.iter().map(|kernel| vec![cell("kernel"), cell(kernel)]));
    rows.extend(command_line.iter().map(|text| vec![cell("command line"), cell(text)]));
    rows
}

pub(super) fn labels_text(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn causes_text(causes: &[CauseJson]) -> String {
    let row = |cause: &CauseJson| -> Row {
        let known = Code::from_code(&cause.code).map(Code::row);
        let code = (cause.code.clone(), known.map(|row| row.verdict));
        let remedy = known.map_or("", |row| row.remedy);
        vec![code, cell(&cause.detail), cell(&cause.first_seen), cell(remedy)]
    };
    if causes.is_empty() {
        return String::new();
    }
    table(&["CAUSE", "DETAIL", "SINCE", "WHAT TO DO"], causes.iter().map(row).collect())
}

const fn class_name(class: appraisal::EkClass) -> &'static str {
    match class {
        appraisal::EkClass::Hardware => "hardware or firmware",
        appraisal::EkClass::Software => "software",
    }
}

fn history_text(history: &HistoryJson) -> String {
    let row = |row: &crate::http::api::HistoryRowJson| -> Row {
        let attested = row
            .attested
            .as_ref()
            .map(|attested| format!("{}; unattested from then to {}", attested_text(attested), row.at));
        let note = attested.or_else(|| row.note.clone()).unwrap_or_else(|| codes(&row.causes));
        let who = row.who.as_deref().map_or_else(String::new, |who| format!(" (by {who})"));
        let previous = row.previous.map_or_else(|| cell("-"), show::verdict);
        vec![
            cell(&row.at),
            cell(&row.what),
            previous,
            show::verdict(row.verdict),
            cell(or_dash(row.release.as_deref())),
            cell(if note.is_empty() { "-".to_owned() } else { note } + &who),
        ]
    };
    let mut text =
        table(&["AT", "WHAT", "BEFORE", "VERDICT", "RELEASE", "WHY"], history.history.iter().map(row).collect());
    if let Some(attested) = &history.attested {
        text += &format!("attested {}\n", attested_text(attested));
    }
    text
}

fn attested_text(attested: &AttestedJson) -> String {
    let AttestedJson { from, until, boot } = attested;
    format!("{from} to {until} (boot {}.{})", boot.reset, boot.restart)
}

fn operator_log_text(log: &OperatorLogJson) -> String {
    let row = |action: &crate::http::api::OperatorActionJson| {
        vec![cell(&action.at), cell(&action.who), cell(&action.what), cell(&action.about)]
    };
    table(&["AT", "WHO", "WHAT", "ABOUT"], log.log.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_boot_only_what_is_shown_has_a_line() {
        let boot = PresentBootJson {
            secure_boot: Some(false),
            command_line: Some("ro quiet".to_owned()),
            kernel: Some("6.12".to_owned()),
            events: 47,
            reset: 12,
            restart: 1,
        };
        let lines = |boot: &PresentBootJson| table(&[], boot_rows(boot));
        let all = "boot\t12.1: 47 events, secure boot off\nkernel\t6.12\ncommand line\tro quiet\n";
        assert_eq!(lines(&boot), all);
        let none = PresentBootJson { secure_boot: None, command_line: None, kernel: None, events: 0, ..boot };
        assert_eq!(lines(&none), "boot\t12.1: no boot log, secure boot not shown\n");
    }

    #[test]
    fn a_code_stands_once_in_a_line_however_many_causes_have_it() {
        let cause = |code: &str, detail: &str| CauseJson {
            code: code.to_owned(),
            detail: detail.to_owned(),
            first_seen: String::new(),
            last_seen: String::new(),
        };
        let two = [cause("b", "x"), cause("a", "y"), cause("b", "z")];
        assert_eq!(codes(&two), "b a");
        assert_eq!(codes(&[]), "-");
    }
}
