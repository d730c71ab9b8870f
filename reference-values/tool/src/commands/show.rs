//! `show`: prints what a document says. Nobody vouches for what is printed here.

use std::collections::BTreeMap;

use reference_values::{Document, Release, SignedDocument, corim_view, limits::MAX_ENDORSEMENTS_FILE};
use serde::Serialize;

use super::{
    Summary, count, hex,
    notices::{Device, TakenBack, devices},
    pcrs, print_json,
    rules::{Policy, Rules},
    table,
};
use crate::{cli::Show, failure::Failure, files};

/// `show --json`.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    summary: Summary,
    #[serde(flatten)]
    says: Says,
    /// As the file states them; `check` verifies them.
    signatures: Vec<Stated>,
}

/// By kind.
#[derive(Serialize)]
#[serde(untagged)]
enum Says {
    Release(Content),
    Endorsements { devices: Vec<Device> },
    Notice(TakenBack),
}

#[derive(Serialize)]
struct Content {
    /// Values by PCR, one map per boot.
    boots: Vec<BTreeMap<u8, String>>,
    boot_rules: Vec<Rules>,
    ima_policies: Vec<Policy>,
    boot_images: Vec<Image>,
    executables: Vec<File>,
}

#[derive(Serialize)]
struct Image {
    path: String,
    kind: &'static str,
    sha256: String,
    authenticode: Option<String>,
    /// Name and SHA-256, in the order of the file.
    sections: Vec<(String, String)>,
}

#[derive(Serialize)]
struct File {
    path: String,
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha384: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha512: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha1: Option<String>,
}

#[derive(Serialize)]
struct Stated {
    role: &'static str,
    key: String,
}

pub(crate) fn run(arguments: &Show) -> Result<(), Failure> {
    let bytes = files::read(&arguments.file, MAX_ENDORSEMENTS_FILE)?;
    match SignedDocument::decode(&bytes) {
        Ok(file) => {
            let shown = Shown::of(&file);
            if arguments.json { print_json(&shown) } else { files::print(&shown.text()) }
        }
        // Of another profile, or with parts that this one has not: still a CoRIM that people want to look at.
        Err(error) if corim_view::recognises(&bytes) => {
            let lines = corim_view::lines(&bytes).map_err(|_| Failure::input(&arguments.file, &error))?;
            let foreign = Foreign {
                kind: "corim",
                unusable: error.to_string(),
                values: lines.into_iter().map(Into::into).collect(),
            };
            if arguments.json { print_json(&foreign) } else { files::print(&foreign.text()) }
        }
        Err(error) => Err(Failure::input(&arguments.file, error)),
    }
}

/// A CoRIM that no verifier of this project takes.
#[derive(Serialize)]
struct Foreign {
    kind: &'static str,
    /// Why not.
    unusable: String,
    values: Vec<ForeignValue>,
}

#[derive(Serialize)]
struct ForeignValue {
    path: String,
    value: String,
    understood: bool,
}

impl From<corim_view::Line> for ForeignValue {
    fn from(corim_view::Line { path, value, understood }: corim_view::Line) -> Self {
        Self { path, value, understood }
    }
}

impl Foreign {
    fn text(&self) -> String {
        let mut out = format!("a CoRIM that no verifier takes: {}\n\n", self.unusable);
        for ForeignValue { path, value, understood } in &self.values {
            out.push_str(&format!("{path}: {value}{}\n", if *understood { "" } else { " (not understood)" }));
        }
        out
    }
}

impl Shown {
    fn of(file: &SignedDocument) -> Self {
        let says = match file.document() {
            Document::Release(release) => Says::Release(Content::of(release)),
            Document::Endorsements(list) => Says::Endorsements { devices: devices(list) },
            Document::Notice(notice) => Says::Notice(notice.into()),
        };
        let signatures = file.signatures().iter();
        let signatures = signatures
            .map(|signature| Stated { role: signature.stated_role().name(), key: signature.key().to_string() })
            .collect();
        Self { summary: Summary::of(file.document()), says, signatures }
    }

    fn text(&self) -> String {
        let mut out = self.summary.lines();
        if self.signatures.is_empty() {
            out.push_str("not signed\n");
        }
        for Stated { role, key } in &self.signatures {
            out.push_str(&format!("signed as {role} by key {key} (not verified; `check` does that)\n"));
        }
        match &self.says {
            Says::Release(content) => out.push_str(&content.text()),
            Says::Endorsements { devices } => {
                out.push_str(&format!("\n{}\n", count(devices.len(), "device", "devices")));
                devices.iter().for_each(|device| out.push_str(&format!("{}\n", device.line())));
            }
            Says::Notice(taken) => {
                out.push('\n');
                taken.lines().iter().for_each(|line| out.push_str(&format!("{line}\n")));
            }
        }
        out
    }
}

impl Content {
    fn of(release: &Release) -> Self {
        let file = |file: &reference_values::Executable| {
            let further = release.further_digests().get(&file.digest).cloned().unwrap_or_default();
            File {
                path: file.path.clone(),
                sha256: hex(&file.digest),
                sha384: further.sha384.map(|digest| hex(&digest)),
                sha512: further.sha512.map(|digest| hex(&digest)),
                sha1: further.sha1.map(|digest| hex(&digest)),
            }
        };
        let mut executables = release.executables().iter().map(file).collect::<Vec<_>>();
        executables.sort_by(|a, b| (&a.path, &a.sha256).cmp(&(&b.path, &b.sha256)));
        let image = |image: &reference_values::BootImage| Image {
            path: image.path.clone(),
            kind: image.kind.name(),
            sha256: hex(&image.digest),
            authenticode: image.authenticode.map(|digest| hex(&digest)),
            sections: image.sections.iter().map(|(name, digest)| (name.clone(), hex(digest))).collect(),
        };
        Self {
            boots: release.boots().iter().map(pcrs).collect(),
            boot_rules: release.boot_rules().iter().map(Into::into).collect(),
            ima_policies: release.ima_policies().iter().map(Into::into).collect(),
            boot_images: release.images().iter().map(image).collect(),
            executables,
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for (number, boot) in self.boots.iter().enumerate() {
            let rows = boot.iter().map(|(index, value)| vec![index.to_string(), value.clone()]);
            out.push_str(&format!("\nboot {} of {}\n", number + 1, self.boots.len()));
            out.push_str(&table(&["PCR", "SHA-256"], rows));
        }
        for (number, rules) in self.boot_rules.iter().enumerate() {
            out.push_str(&format!("\nboot rules {} of {}\n{}", number + 1, self.boot_rules.len(), rules.text()));
        }
        if !self.ima_policies.is_empty() {
            out.push_str(&format!("\n{}\n", count(self.ima_policies.len(), "IMA policy", "IMA policies")));
            self.ima_policies.iter().for_each(|policy| out.push_str(&format!("{}\n", policy.line())));
        }
        if !self.boot_images.is_empty() {
            out.push_str(&format!("\n{}\n", count(self.boot_images.len(), "boot image", "boot images")));
            self.boot_images.iter().for_each(|image| out.push_str(&image.text()));
        }
        if !self.executables.is_empty() {
            out.push_str(&format!("\n{}\n", count(self.executables.len(), "executable", "executables")));
            for File { path, sha256, .. } in &self.executables {
                out.push_str(&format!("{sha256}  {path}\n"));
            }
        }
        out
    }
}

impl Image {
    fn text(&self) -> String {
        let mut out = format!("{}  {} ({})\n", self.sha256, self.path, self.kind);
        if let Some(authenticode) = &self.authenticode {
            out.push_str(&format!("    Authenticode {authenticode}\n"));
        }
        self.sections.iter().for_each(|(name, digest)| out.push_str(&format!("    {name} {digest}\n")));
        out
    }
}
