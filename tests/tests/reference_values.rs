//! Reference values through the programs as they run: made, signed by several, published, taken back, and imported.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context as _, Result, ensure};
use devices::deployment::{Deployment, PRODUCT, program, succeeded};
use serde_json::{Value, json};

type Done = Result<()>;

/// A deployment whose device is enrolled and approved, and where releases are made.
struct Chain {
    deployment: Deployment,
    id: String,
}

impl Chain {
    /// With a release of the device, signed by its manufacturer, in force.
    fn start() -> Result<Self> {
        let deployment = Deployment::start()?;
        deployment.sign_release_of_the_device()?;
        succeeded("enrol", &deployment.attester(&["enrol"])?)?;
        let id = deployment.device_id()?;
        succeeded("approve", &deployment.verifier(&["approve", &id, "--product", PRODUCT])?)?;
        Ok(Self { deployment, id })
    }

    fn folder(&self) -> &Path {
        self.deployment.verifier_dir.parent().unwrap_or(&self.deployment.verifier_dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn tool(&self, arguments: &[&str]) -> Result<Output> {
        Ok(program("reference-values")?.args(arguments).current_dir(self.folder()).output()?)
    }

    /// Signs a file of the maker's folder in place, by a key that is made and trusted where it is missing.
    fn sign(&self, file: &str, role: &str) -> Done {
        let key = if role == "manufacturer" { "maker".to_owned() } else { role.to_owned() };
        if !self.file(&format!("{key}.pem")).exists() {
            succeeded("keygen", &self.tool(&["keygen", "--out", &format!("{key}.pem")])?)?;
            let public = fs::read_to_string(self.file(&format!("{key}.pub.pem")))?;
            let trust = format!(
                "[[signer]]\nname = \"The {role}\"\nrole = \"{role}\"\nproducts = [\"demo/*\"]\nkey = \"\"\"\n{public}\"\"\"\n"
            );
            fs::write(self.deployment.verifier_dir.join(format!("trust/{key}.toml")), trust)?;
        }
        let key = format!("{key}.pem");
        succeeded("sign", &self.tool(&["sign", file, "--key", &key, "--role", role, "-o", file])?)
    }

    fn publish(&self, file: &str) -> Result<Output> {
        let token = self.deployment.verifier_dir.join("api-token");
        let token = token.to_str().context("a path")?;
        self.tool(&[
            "publish",
            file,
            "--to",
            &format!("http://{}", self.deployment.http_address()?),
            "--token-file",
            token,
        ])
    }

    /// Puts lines before everything else in the policy, and has it read.
    fn policy(&self, lines: &str) -> Done {
        let path = self.deployment.verifier_dir.join("policy.toml");
        let policy = fs::read_to_string(&path)?;
        fs::write(&path, format!("{lines}\n{policy}"))?;
        self.deployment.reload()
    }

    fn device(&self) -> Result<Value> {
        self.deployment.verifier_json(&["device", &self.id])
    }

    fn shows(&self, verdict: &str, cause: Option<&str>) -> Done {
        let shown = self.becomes(verdict, cause);
        shown.with_context(|| format!("{:#}", self.device().unwrap_or_default()))
    }

    fn becomes(&self, verdict: &str, cause: Option<&str>) -> Done {
        self.deployment.eventually(&format!("{verdict} {cause:?}"), || {
            let device = self.device()?;
            let causes = device["causes"].as_array().context("causes")?;
            let is = cause.is_none_or(|cause| causes.iter().any(|one| one["code"] == cause));
            Ok(device["verdict"] == verdict && is)
        })
    }

    fn once(&self) -> Result<Option<i32>> {
        Ok(self.deployment.attester(&["once"])?.status.code())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn a_release_counts_once_the_importer_has_signed_too_where_the_policy_says_so() -> Done {
    let chain = Chain::start()?;
    let release = chain.deployment.verifier_dir.join("reference_values/1.0.corim");
    fs::copy(&release, chain.file("release.corim"))?;
    fs::remove_file(&release)?;
    chain.policy("required_roles = [\"manufacturer\", \"importer\"]")?;
    chain.deployment.eventually("nothing is in force", || {
        let answer = chain.deployment.http("/v1/reference-values")?;
        let (_, json) = answer.split_once("\r\n\r\n").context("a body")?;
        let references: Value = serde_json::from_str(json)?;
        Ok(references["releases"].as_array().is_some_and(Vec::is_empty))
    })?;
    let refused = chain.publish("release.corim")?;
    ensure!(refused.status.code() == Some(6), "{}", said(&refused));
    ensure!(
        said(&refused).contains("release.missing-role") && said(&refused).contains("importer"),
        "{}",
        said(&refused)
    );
    ensure!(chain.once()? == Some(5), "without reference values there is no verdict");
    chain.sign("release.corim", "importer")?;
    // The importer's key is trusted as soon as its file lies there.
    chain.deployment.eventually("published", || Ok(chain.publish("release.corim")?.status.success()))?;
    ensure!(chain.once()? == Some(0), "{:#}", chain.device()?);
    let device = chain.device()?;
    let vouched: Vec<_> =
        device["vouched"].as_array().context("vouched")?.iter().map(|one| one["role"].clone()).collect();
    ensure!(vouched == ["manufacturer", "importer"], "{device:#}");
    Ok(())
}

#[test]
fn what_runs_is_taken_back_and_allowed_again_without_restart_and_without_asking_the_device() -> Done {
    let chain = Chain::start()?;
    ensure!(chain.once()? == Some(0));
    let notice = |sequence: &str, more: &[&str]| -> Done {
        let base = ["notice", "--product", PRODUCT, "--name", "psirt", "--sequence", sequence, "-o", "notice.corim"];
        succeeded("notice", &chain.tool(&[&base[..], more].concat())?)?;
        chain.sign("notice.corim", "manufacturer")?;
        succeeded("publish", &chain.publish("notice.corim")?)
    };
    notice("1", &["--revoke", "1.0=a hole", "--advisory", "1.0=CVE-2026-1"])?;
    chain.shows("contraindicated", Some("release.revoked"))?;
    notice("2", &[])?;
    chain.shows("affirmed", None)?;
    let running = chain.device()?["running"].clone();
    let attester = running
        .as_array()
        .context("running")?
        .iter()
        .find(|file| file["path"].as_str().is_some_and(|path| path.ends_with("/attester")));
    let digest = attester.context("the attester runs")?["sha256"].as_str().context("a digest")?.to_owned();
    fs::write(chain.file("bad.csv"), format!("{digest},CVE-2026-2,a back door\n"))?;
    notice("3", &["--known-bad", "bad.csv"])?;
    chain.shows("contraindicated", Some("runtime.known-bad"))?;
    ensure!(chain.once()? == Some(4), "the device says the same");
    let older =
        chain.tool(&["notice", "--product", PRODUCT, "--name", "psirt", "--sequence", "2", "-o", "older.corim"])?;
    succeeded("notice", &older)?;
    chain.sign("older.corim", "manufacturer")?;
    let refused = chain.publish("older.corim")?;
    ensure!(refused.status.code() == Some(6), "{}", said(&refused));
    chain.shows("contraindicated", Some("runtime.known-bad"))
}

#[test]
fn releases_from_a_keylime_policy_and_an_sbom_judge_real_evidence() -> Done {
    let chain = Chain::start()?;
    ensure!(chain.once()? == Some(0));
    // What a shop knows of its device: files with their digests, and no word about boots.
    let running = chain.device()?["running"].as_array().context("running")?.clone();
    let text = |file: &Value, key: &str| file[key].as_str().map(str::to_owned).context("text");
    fs::remove_file(chain.deployment.verifier_dir.join("reference_values/1.0.corim"))?;
    chain.policy("require = [\"executables\"]")?;
    for (form, sequence) in [("keylime", 4_000_000_000_u64), ("sbom", 4_000_000_010)] {
        for (missing, expected) in [(1, Some(4)), (0, Some(0))] {
            let mut digests = serde_json::Map::new();
            let mut components = Vec::new();
            for file in running.iter().skip(missing) {
                let (path, digest) = (text(file, "path")?, text(file, "sha256")?);
                components
                    .push(json!({ "type": "file", "name": path, "hashes": [{ "alg": "SHA-256", "content": digest }] }));
                digests.entry(path).or_insert_with(|| json!([])).as_array_mut().context("a list")?.push(digest.into());
            }
            let content = match form {
                "keylime" => json!({ "meta": { "version": 1 }, "digests": digests, "excludes": [] }),
                _ => json!({ "bomFormat": "CycloneDX", "specVersion": "1.5", "components": components }),
            };
            fs::write(chain.file("input.json"), content.to_string())?;
            let sequence = (sequence + 1 - missing as u64).to_string();
            let name = format!("{form}-{sequence}");
            let release = ["--product", PRODUCT, "--release", &name, "--sequence", &sequence, "-o", "imported.corim"];
            succeeded("import", &chain.tool(&[&["import", form, "input.json"][..], &release].concat())?)?;
            chain.sign("imported.corim", "manufacturer")?;
            // Of the shop's releases only this one.
            for old in fs::read_dir(chain.deployment.verifier_dir.join("reference_values"))? {
                fs::remove_file(old?.path())?;
            }
            succeeded("publish", &chain.publish("imported.corim")?)?;
            let code = chain.once()?;
            ensure!(code == expected, "{form}, {missing} missing: {code:?}\n{:#}", chain.device()?);
        }
    }
    Ok(())
}
