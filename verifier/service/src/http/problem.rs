//! Errors as RFC 9457 problem details. `type` is stable, `detail` is for people.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use crate::store::{StoreError, Unresolved};

/// Media type of RFC 9457.
pub const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! kinds {
    ($($name:ident: $code:literal, $status:ident, $title:literal;)*) => {
        /// What can be wrong with a request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind { $(#[doc = $title] $name),* }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            const fn row(self) -> (&'static str, StatusCode, &'static str) {
                match self { $(Self::$name => (concat!("urn:countersign:problem:", $code), StatusCode::$status, $title)),* }
            }
        }
    };
}

kinds! {
    Unauthorized: "unauthorized", UNAUTHORIZED, "The request carries no valid token";
    Forbidden: "forbidden", FORBIDDEN, "The token is not good for this";
    BadRequest: "bad-request", BAD_REQUEST, "The request cannot be understood";
    NotAnId: "not-an-id", BAD_REQUEST, "That is not a device id";
    UnknownDevice: "unknown-device", NOT_FOUND, "No such device is enrolled";
    AmbiguousId: "ambiguous-id", CONFLICT, "Several device ids begin like that";
    NoResult: "no-result", NOT_FOUND, "The device has sent no evidence yet";
    ResultVoid: "result-void", CONFLICT, "The last result no longer holds";
    Revoked: "revoked", CONFLICT, "The device is shut out";
    TooMany: "too-many", CONFLICT, "There are as many as there may be";
    NameTaken: "name-taken", CONFLICT, "There is one of that name";
    UnknownToken: "unknown-token", NOT_FOUND, "There is no token of that name";
    NoKeys: "no-keys", SERVICE_UNAVAILABLE, "The verifier has no keys yet";
    NotRotated: "not-rotated", INTERNAL_SERVER_ERROR, "The keys have not been replaced";
    NoSuchPath: "no-such-path", NOT_FOUND, "There is nothing at this path";
    NoSuchMethod: "no-such-method", METHOD_NOT_ALLOWED, "This path does not know this method";
    TooLarge: "too-large", PAYLOAD_TOO_LARGE, "The request's body is too large";
    Refused: "document-refused", UNPROCESSABLE_ENTITY, "The document is refused";
    Clash: "document-clash", CONFLICT, "The document contradicts what is in force";
    Unwritable: "not-published", INTERNAL_SERVER_ERROR, "The document could not be put in force";
    CheckTimeout: "check-timeout", GATEWAY_TIMEOUT, "The device has not answered in time";
    Busy: "busy", SERVICE_UNAVAILABLE, "Too many requests wait already";
    NotReady: "not-ready", SERVICE_UNAVAILABLE, "The service is not ready";
    Store: "store", INTERNAL_SERVER_ERROR, "The store failed";
}

/// An answer that says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    detail: String,
    code: Option<&'static str>,
}

/// A problem as it stands in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemJson {
    /// Stable identifier.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What, where, what to do.
    pub detail: String,
    /// Of a refused document: the stable code, `release.…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl Kind {
    /// Stable identifier.
    #[must_use]
    pub const fn uri(self) -> &'static str {
        self.row().0
    }

    /// From the stable identifier.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.uri() == uri)
    }
}

impl Problem {
    /// Of a kind, with what to say of this case.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), code: None }
    }

    /// With the code of a refused document.
    #[must_use]
    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a request could not be served");
        Self::new(Kind::Store, error.to_string())
    }
}

impl From<Unresolved> for Problem {
    fn from(unresolved: Unresolved) -> Self {
        let kind = match unresolved {
            Unresolved::Store(error) => return error.into(),
            Unresolved::NotAnId(_) => Kind::NotAnId,
            Unresolved::Unknown(_) => Kind::UnknownDevice,
            Unresolved::Ambiguous(_) => Kind::AmbiguousId,
        };
        Self::new(kind, unresolved.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (uri, status, title) = self.kind.row();
        let json = ProblemJson {
            kind: uri.to_owned(),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail,
            code: self.code.map(str::to_owned),
        };
        let mut response = (status, axum::Json(json)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if self.kind == Kind::Unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
