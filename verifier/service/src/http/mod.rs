//! The HTTP API on loopback. A request with the token goes in, JSON comes out; nothing but `/healthz` and `/readyz`
//! answers without the token, whether the path exists or not.

pub mod api;
mod connection;
mod handlers;
pub mod problem;
mod token;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use appraisal::UnixSeconds;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::header,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get, post},
};
use evidence::{claims::DeviceId, verifier_keys::VerifierKeys, verifier_message::VerifierKeyId};
use reference_values::ReferenceIndex;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};

pub use token::{Token, TokenError};

use crate::{limits::MAX_HTTP_BODY, metrics::Metrics, store::Store};
use problem::{Kind, Problem};

/// What the API answers from.
#[derive(Clone)]
pub struct App {
    /// Devices.
    pub store: Store,
    /// What callers must present.
    pub token: Arc<Token>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Whether the service can do its work.
    pub ready: Arc<Readiness>,
    /// Reference values in force.
    pub references: watch::Receiver<Arc<ReferenceIndex>>,
    /// What operators want done now.
    pub orders: mpsc::Sender<Order>,
    /// Keys that this verifier signs with at present, once it has some.
    pub keys: watch::Receiver<Option<Arc<SignedKeys>>>,
    /// Seconds since 1970.
    pub clock: fn() -> UnixSeconds,
}

/// What an operator wants done, beyond what the store does by itself.
#[derive(Debug)]
pub enum Order {
    /// Fresh evidence of a device.
    Check {
        /// Which.
        device: DeviceId,
    },
    /// New keys in the place of those in force; the answer is what is in force then, or why nothing has changed.
    RotateKeys(oneshot::Sender<Result<Arc<SignedKeys>, String>>),
}

/// A verifier's present keys, and the message in which its root says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedKeys {
    /// The root that devices pin.
    pub root: VerifierKeyId,
    /// The keys.
    pub keys: VerifierKeys,
    /// As it is published.
    pub message: Vec<u8>,
}

/// What must be up before the service can do its work, and whether it is.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<BTreeMap<&'static str, bool>>);

impl Readiness {
    /// None of `parts` is up yet.
    #[must_use]
    pub fn waiting_for(parts: &[&'static str]) -> Self {
        Self(Mutex::new(parts.iter().map(|part| (*part, false)).collect()))
    }

    /// A part has come up, or gone.
    pub fn set(&self, part: &'static str, up: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(part, up);
    }

    /// Parts that are not up.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().filter(|(_, up)| !**up).map(|(part, _)| *part).collect()
    }
}

/// Paths that answer without a token.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// Every route: the one list, from which the router is made and which the test of default deny walks.
fn routes() -> Vec<(&'static str, MethodRouter<App>)> {
    vec![
        ("/healthz", get(handlers::healthz)),
        ("/readyz", get(handlers::readyz)),
        ("/metrics", get(handlers::metrics)),
        ("/v1/fleet", get(handlers::fleet)),
        ("/v1/reference-values", get(handlers::reference_values)),
        ("/v1/devices", get(handlers::devices)),
        ("/v1/devices/{id}", get(handlers::device)),
        ("/v1/devices/{id}/history", get(handlers::history)),
        ("/v1/devices/{id}/result", get(handlers::result)),
        ("/v1/devices/{id}/approve", post(handlers::approve)),
        ("/v1/devices/{id}/revoke", post(handlers::revoke)),
        ("/v1/devices/{id}/check", post(handlers::check)),
    ]
}

/// Serves until the task is dropped.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(listener: TcpListener, app: App) -> io::Result<()> {
    axum::serve(connection::Bounded::new(listener), router(app)).await
}

fn router(app: App) -> Router {
    let router = routes().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    router
        .fallback(|| async { Problem::new(Kind::NoSuchPath, "see the paths in the API's documentation") })
        .method_not_allowed_fallback(|| async { Problem::new(Kind::NoSuchMethod, "use GET to read and POST to act") })
        .layer(DefaultBodyLimit::max(MAX_HTTP_BODY))
        .layer(from_fn_with_state(app.clone(), authorize))
        .with_state(app)
}

/// Default deny: stands before the router, so a route cannot be forgotten.
async fn authorize(State(app): State<App>, request: Request, next: Next) -> Response {
    let presented =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if OPEN.contains(&request.uri().path()) || presented.is_some_and(|presented| app.token.is(presented)) {
        return next.run(request).await;
    }
    let detail = "send `Authorization: Bearer TOKEN` with the token that `verifier init` wrote";
    Problem::new(Kind::Unauthorized, detail).into_response()
}

#[cfg(test)]
mod tests;
