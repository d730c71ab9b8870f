//! `publish`: hands a signed document to a running verifier, and tells what it says.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use ureq::{Agent, http::Uri};
use zeroize::Zeroizing;

use super::print_json;
use crate::{cli::Publish, failure::Failure, files};

/// Largest answer that is read, bytes.
const MAX_ANSWER: u64 = 64 * 1024;
/// A token is 64 hexadecimal digits.
const MAX_TOKEN: usize = 4096;
/// As long as a verifier may take to read, check and compile everything.
const PATIENCE: Duration = Duration::from_secs(300);
/// Names the token's file where no flag does.
const TOKEN_VARIABLE: &str = "COUNTERSIGN_VERIFIER__HTTP__TOKEN_FILE";

/// What a verifier says of a document that it took.
#[derive(Serialize, Deserialize)]
struct Published {
    product: String,
    kind: String,
    name: String,
    sequence: u64,
    /// Products whose devices are judged anew.
    #[serde(default)]
    affected: Vec<String>,
}

/// RFC 9457.
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    detail: String,
    #[serde(default)]
    code: Option<String>,
}

pub(crate) fn run(arguments: &Publish) -> Result<(), Failure> {
    let url = arguments.to.trim_end_matches('/');
    check(url)?;
    let token = token(arguments)?;
    let document = files::read_document(&arguments.file)?;
    if document.signatures().is_empty() {
        return Err(Failure::input(&arguments.file, "it is not signed, and no verifier takes it; `sign` does that"));
    }
    let (status, body) = send(url, &token, &document.encode())?;
    match status {
        200..=299 => {
            let published: Published = serde_json::from_slice(&body).map_err(|_| strange(url, status))?;
            if arguments.json { print_json(&published) } else { files::print(&published.text()) }
        }
        _ => Err(refusal(url, status, &body)),
    }
}

/// The token goes over plain HTTP, so it goes to this host alone; verifiers listen nowhere else.
fn check(url: &str) -> Result<(), Failure> {
    let wrong = |why: &str| Err(Failure::Usage(format!("--to {url:?}: {why}")));
    let Ok(uri) = url.parse::<Uri>() else { return wrong("the URL of a verifier is http://ADDRESS:PORT") };
    let (Some("http"), Some(authority), None) = (uri.scheme_str(), uri.authority(), uri.query()) else {
        return wrong("the URL of a verifier is http://ADDRESS:PORT");
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !here || authority.as_str().contains('@') {
        return wrong(
            "the token would go over the network in the clear; give a loopback address, as 127.0.0.1 or [::1], \
                      that leads there through a tunnel",
        );
    }
    Ok(())
}

fn token(arguments: &Publish) -> Result<Zeroizing<String>, Failure> {
    let from_variable = || std::env::var_os(TOKEN_VARIABLE).map(PathBuf::from);
    let missing = || Failure::Usage(format!("--token-file is missing, and {TOKEN_VARIABLE} is not set"));
    let path = arguments.token_file.clone().or_else(from_variable).ok_or_else(missing)?;
    let bytes = Zeroizing::new(files::read(&path, MAX_TOKEN)?);
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::Usage(format!("{}: no token stands in it", path.display())));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

fn send(url: &str, token: &str, body: &[u8]) -> Result<(u16, Vec<u8>), Failure> {
    // No proxy and no redirection: the token is for the verifier alone.
    let config = Agent::config_builder().http_status_as_error(false).proxy(None).max_redirects(0);
    let agent: Agent = config.timeout_global(Some(PATIENCE)).build().into();
    let unreachable = |error: ureq::Error| {
        Failure::Operation(format!("no verifier answers at {url}: {error}; is `verifier serve` running there?"))
    };
    let request = agent.post(format!("{url}/v1/reference-values"));
    let request = request.header("Authorization", format!("Bearer {token}")).content_type("application/rim+cose");
    let mut response = request.send(body).map_err(unreachable)?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(unreachable)?;
    Ok((status, body))
}

fn strange(url: &str, status: u16) -> Failure {
    Failure::Operation(format!("{url} answers, but not as a verifier does (HTTP status {status})"))
}

/// A document that is refused is the input's fault, a token that is not taken is the caller's, the rest is theirs.
fn refusal(url: &str, status: u16, body: &[u8]) -> Failure {
    let Ok(Problem { detail, code }) = serde_json::from_slice(body) else { return strange(url, status) };
    let said = code.map_or_else(|| detail.clone(), |code| format!("{code}: {detail}"));
    let said = said.replace(char::is_control, " ");
    match status {
        409 | 413 | 422 => Failure::Input(format!("refused: {said}")),
        400..=499 => Failure::Usage(said),
        _ => Failure::Operation(said),
    }
}

impl Published {
    fn text(&self) -> String {
        let Self { product, kind, name, sequence, .. } = self;
        format!("{kind} {name} of {product}, sequence {sequence}: in force\n")
    }
}
