//! The command line's end of the HTTP API: in go a path and a body, out comes JSON, or what is wrong in the service's
//! own words. Loopback, plain HTTP, one token.

use std::{ffi::OsString, path::Path, time::Duration};

use serde::Serialize;
use ureq::{
    Agent,
    http::{Request, Response},
};

use crate::{
    config::{Config, ConfigError},
    http::{
        Token, TokenError,
        problem::{self, Kind, ProblemJson},
    },
    limits::MAX_HTTP_ANSWER,
};

/// Where the service is, without a configuration.
pub const URL_VARIABLE: &str = "COUNTERSIGN_VERIFIER__HTTP__URL";
/// Which token to present, without a configuration.
pub const TOKEN_VARIABLE: &str = "COUNTERSIGN_VERIFIER__HTTP__TOKEN_FILE";
/// Longest time that an answer takes which waits for nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The URL is of no use.
    #[error("`{0}` is not the URL of a verifier: http://ADDRESS:PORT is expected")]
    Url(String),
    /// Nobody answers.
    #[error("no verifier answers at {url}: {why}; is `verifier serve` running there? (--url, --config)")]
    Unreachable {
        /// Where.
        url: String,
        /// Why not.
        why: String,
    },
    /// The service said what is wrong.
    #[error("{}", .0.detail)]
    Problem(ProblemJson),
    /// Something answers, but no verifier.
    #[error("{url} answers, but not as a verifier does (HTTP status {status}); is another program on that port?")]
    Strange {
        /// Where.
        url: String,
        /// Its status.
        status: u16,
    },
}

impl ClientError {
    /// What the service called it.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Problem(problem) => Kind::from_uri(&problem.kind),
            _ => None,
        }
    }

    /// Whether the call or the configuration was wrong, rather than anything that happened.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        use Kind::{AmbiguousId, BadRequest, NameTaken, NotAnId, Revoked, TooMany, UnknownDevice, UnknownToken};
        let usage = [BadRequest, NotAnId, UnknownDevice, AmbiguousId, Revoked, TooMany, NameTaken, UnknownToken];
        matches!(self, Self::Config(_) | Self::Url(_)) || self.kind().is_some_and(|kind| usage.contains(&kind))
    }
}

/// A verifier's HTTP API.
pub struct Client {
    agent: Agent,
    url: String,
    token: Token,
}

impl Client {
    /// For the API at `url`.
    ///
    /// # Errors
    /// [`ClientError::Url`] for anything but `http://…`.
    pub fn new(url: &str, token: Token) -> Result<Self, ClientError> {
        let url = url.trim_end_matches('/');
        if !url.starts_with("http://") || url.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(ClientError::Url(url.to_owned()));
        }
        // No proxy: the token is for the service alone.
        let config = Agent::config_builder().http_status_as_error(false).proxy(None).max_redirects(0);
        Ok(Self { agent: config.build().into(), url: url.to_owned(), token })
    }

    /// As flags, environment and configuration say, in this order.
    ///
    /// # Errors
    /// [`ClientError`] where the configuration or the token cannot be read.
    pub fn find(
        url: Option<&str>,
        config: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ClientError> {
        let (mut from_variable, mut token_file) = (None, None);
        let rest = environment.into_iter().filter_map(|(name, value)| match name.to_str() {
            Some(URL_VARIABLE) => {
                from_variable = Some(value);
                None
            }
            Some(TOKEN_VARIABLE) => {
                token_file = Some(value);
                None
            }
            _ => Some((name, value)),
        });
        let rest: Vec<_> = rest.collect();
        let url = url.map(str::to_owned).or_else(|| from_variable.map(|url| url.to_string_lossy().into_owned()));
        match (url, token_file) {
            (Some(url), Some(file)) => Self::new(&url, Token::read(Path::new(&file))?),
            (url, file) => {
                let config = Config::load(config, rest)?;
                let url = url.map_or_else(|| config.url(), Ok)?;
                let file = file.map_or_else(|| config.http.token_file.clone(), Into::into);
                Self::new(&url, Token::read(&file)?)
            }
        }
    }

    /// Asks.
    ///
    /// # Errors
    /// [`ClientError`] where there is no answer, or one that says what is wrong.
    pub fn get(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let request = Request::get(format!("{}{path}", self.url)).header("Authorization", self.bearer());
        self.send(request.body(()), PATIENCE)
    }

    /// Acts, and waits as long as the service may take.
    ///
    /// # Errors
    /// [`ClientError`] where there is no answer, or one that says what is wrong.
    pub fn post<T: Serialize>(&self, path: &str, body: &T, wait: Duration) -> Result<Vec<u8>, ClientError> {
        let json = serde_json::to_vec(body).unwrap_or_default();
        let request = Request::post(format!("{}{path}", self.url))
            .header("Authorization", self.bearer())
            .header("Content-Type", "application/json");
        self.send(request.body(json), wait + PATIENCE)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token.expose())
    }

    fn send<B: ureq::AsSendBody>(
        &self,
        request: Result<Request<B>, ureq::http::Error>,
        patience: Duration,
    ) -> Result<Vec<u8>, ClientError> {
        let request = request.map_err(|_| ClientError::Url(self.url.clone()))?;
        let unreachable =
            |error: ureq::Error| ClientError::Unreachable { url: self.url.clone(), why: error.to_string() };
        let request = self.agent.configure_request(request).timeout_global(Some(patience)).build();
        let mut response: Response<ureq::Body> = self.agent.run(request).map_err(unreachable)?;
        let body = response.body_mut().with_config().limit(MAX_HTTP_ANSWER).read_to_vec().map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(body);
        }
        let status = response.status().as_u16();
        let media_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        match serde_json::from_slice(&body) {
            Ok(json) if media_type == Some(problem::MEDIA_TYPE) => Err(ClientError::Problem(json)),
            _ => Err(ClientError::Strange { url: self.url.clone(), status }),
        }
    }
}

/// `path?name=value&…`, percent-encoded.
#[must_use]
pub fn with_query(path: &str, parameters: &[(&str, String)]) -> String {
    let encode = |text: &str| {
        text.bytes().fold(String::new(), |encoded, byte| match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                encoded + char::from(byte).encode_utf8(&mut [0; 4])
            }
            _ => encoded + &format!("%{byte:02X}"),
        })
    };
    let pairs: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}
