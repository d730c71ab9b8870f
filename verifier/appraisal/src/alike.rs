//! Devices that stand alike: in goes what re-appraising one of them came to, out comes what it means for another of the
//! same posture ([`DeviceState::posture`]). What is of one device alone stays its own: counters, positions in logs, times.

use evidence::{cbor, pcr::sha256, result::Claim};

use crate::{
    Code, Information, Notice, UnixSeconds,
    cause::End,
    standing::Standing,
    state::{Approval, BootState, DeviceState, Finding, Update},
};

/// PCR of IMA's list.
const IMA_PCR: usize = 10;

impl DeviceState {
    /// Names what decides how this device stands by any rules, beside its product's values and the files that run on it.
    /// Devices that stand alike have one posture: no time, counter or position is in it, nor the values of PCRs that the
    /// logs explain.
    #[must_use]
    pub fn posture(&self, standing: &Standing) -> [u8; 32] {
        let ended = |since: UnixSeconds| since <= standing.approved_at;
        let findings = |all: &[Finding]| -> Vec<(&'static str, String, bool)> {
            let lasting = |finding: &Finding| finding.code.row().end == End::Operator && ended(finding.since);
            all.iter().map(|one| (one.code.row().code, one.detail.clone(), lasting(one))).collect()
        };
        let known: Vec<_> = standing
            .faults(Some(self.firmware_version))
            .into_iter()
            .map(|fault| (fault.code.row().code, fault.detail))
            .collect();
        let incomplete = self.causes.iter().filter(|cause| cause.code == Code::LogIncomplete);
        let incomplete: Vec<&str> = incomplete.map(|cause| cause.detail.as_str()).collect();
        let unexplained =
            self.tolerated.contains(&Code::LogIncomplete) && self.vector.get(Claim::Executables).is_none();
        let boot = &self.boot;
        let about = (
            (&standing.product, standing.ek_class, standing.no_ek_certificate, known),
            (self.firmware_version, self.cleared.is_some_and(|at| !ended(at)), findings(&self.compromised)),
            (incomplete, unexplained),
            (findings(&boot.findings), boot.further_findings, &boot.releases, &boot.judged, boot.log_wanted),
            (explained(boot), boot.boot_log.as_ref().map(|log| (log.secure_boot, &log.command_line))),
            (boot.runtime.next > 0, boot.ima.next.min(2), boot.runtime.differs, boot.ima.differs),
            (boot.resumed_from.is_some(), boot.kexec.is_some(), boot.ima_policy),
            (&boot.others, &boot.excluded),
            self.update.as_ref().map(|update| (&update.from, &update.to, update.since)),
            self.highest.map(|highest| (highest.sequence, ended(highest.at))),
        );
        sha256(&cbor::encode(&about))
    }

    /// This device by the outcome of another of its posture, re-appraised at `at`. The same outcome once more changes nothing.
    #[must_use]
    pub fn like(&self, outcome: &Self, approved_at: UnixSeconds, at: UnixSeconds) -> Self {
        // What is found with an approval in view was not there for it.
        let first = Approval(approved_at).first_after(at);
        let findings = like_findings(&self.boot.findings, &outcome.boot.findings, first);
        let since = |code, detail: &str| {
            let causes = self.causes.iter().filter(|known| known.code == code && known.detail == detail);
            let found = findings.iter().filter(|known| known.code == code && known.detail == detail);
            causes.map(|cause| cause.first_seen).chain(found.map(|finding| finding.since)).next().unwrap_or(first)
        };
        let mut causes = outcome.causes.clone();
        for cause in &mut causes {
            cause.first_seen = since(cause.code, &cause.detail);
            cause.last_seen = at;
        }
        // What evidence alone tells is of one device; the rest follows from what devices of one posture share.
        let mut information: Vec<Information> =
            self.information.iter().filter(|notice| !is_by_rules(notice)).cloned().collect();
        for notice in outcome.information.iter().filter(|notice| is_by_rules(notice)) {
            let same = |known: &&Information| known.code == notice.code && known.detail == notice.detail;
            let since = self.information.iter().find(same).map_or(at, |known| known.since);
            information.push(Information { since, ..notice.clone() });
        }
        let still = |finding: &&Finding| {
            outcome.compromised.iter().any(|left| left.code == finding.code && left.detail == finding.detail)
        };
        let mut boot = self.boot.clone();
        boot.findings = findings;
        boot.further_findings = outcome.boot.further_findings;
        boot.releases.clone_from(&outcome.boot.releases);
        boot.judged.clone_from(&outcome.boot.judged);
        boot.log_wanted = outcome.boot.log_wanted;
        boot.ima_policy = outcome.boot.ima_policy;
        boot.ima_sight.clone_from(&outcome.boot.ima_sight);
        boot.others.clone_from(&outcome.boot.others);
        boot.excluded.clone_from(&outcome.boot.excluded);
        let same = |own: &&Update| {
            let outcome = outcome.update.as_ref();
            outcome.is_some_and(|it| (&it.from, &it.to, it.since) == (&own.from, &own.to, own.since) && it.seen != at)
        };
        let update = self.update.as_ref().filter(same).or(outcome.update.as_ref()).cloned();
        let sequence = outcome.highest.map(|highest| highest.sequence);
        let highest = self.highest.filter(|own| Some(own.sequence) == sequence).or(outcome.highest);
        Self {
            boot,
            verdict: outcome.verdict,
            vector: outcome.vector,
            causes,
            tolerated: outcome.tolerated.clone(),
            release: outcome.release.clone(),
            references: outcome.references,
            product: outcome.product.clone(),
            compromised: self.compromised.iter().filter(still).cloned().collect(),
            information,
            update,
            highest,
            ..self.clone()
        }
    }
}

/// Whether rules decide about it, and not evidence alone.
const fn is_by_rules(notice: &Information) -> bool {
    matches!(notice.code, Notice::BootVendorEvent | Notice::ReleaseUpdating)
}

fn like_findings(own: &[Finding], outcome: &[Finding], at: UnixSeconds) -> Vec<Finding> {
    let since = |finding: &Finding| {
        let same = |known: &&Finding| known.code == finding.code && known.detail == finding.detail;
        own.iter().find(same).map_or(at, |known| known.since)
    };
    outcome.iter().map(|finding| Finding { since: since(finding), ..finding.clone() }).collect()
}

/// Values of the quoted PCRs, but for those that the logs lead to: of these, that they do.
fn explained(boot: &BootState) -> Option<Vec<Option<[u8; 32]>>> {
    let pcrs = boot.pcrs()?;
    let logs = [boot.runtime.value, boot.ima.value];
    let value = |pcr: usize| {
        let value = pcrs.get(pcr).copied();
        let zero = value.is_some_and(|value| value == [0; 32]);
        value.filter(|value| zero || !logs.contains(value)).filter(|_| pcr != IMA_PCR || zero)
    };
    Some((0..16).map(value).collect())
}
