//! The HTTP API on loopback. A request with a token goes in, JSON comes out; nothing but `/healthz` and `/readyz`
//! answers without a token, whether the path exists or not, and each path says which role it takes.

pub mod api;
mod connection;
mod handlers;
mod openapi;
mod operators;
pub mod problem;
mod references;
mod token;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use appraisal::UnixSeconds;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::header,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get, post},
};
use evidence::{claims::DeviceId, verifier_keys::VerifierKeys, verifier_message::VerifierKeyId};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, mpsc, oneshot, watch},
};

pub use token::{Token, TokenError};

use crate::{
    limits::MAX_HTTP_BODY,
    metrics::Metrics,
    references::Desk,
    store::{Role, Store, StoreError, TokenEntry},
};
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
    /// Reference values in force, and how to change them.
    pub desk: Arc<Desk>,
    /// Documents that may be read at a time to be published.
    pub publishing: Arc<Semaphore>,
    /// What operators want done now.
    pub orders: mpsc::Sender<Order>,
    /// Keys that this verifier signs with at present, once it has some.
    pub keys: watch::Receiver<Option<Arc<SignedKeys>>>,
    /// To be told when somebody is shut out or let in, for the broker to know.
    pub access_changed: Arc<Notify>,
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

/// What must be up before the service can do its work, and whether it is; and what wants an operator's eye meanwhile.
#[derive(Debug, Default)]
pub struct Readiness {
    parts: Mutex<BTreeMap<&'static str, bool>>,
    warnings: Mutex<BTreeSet<&'static str>>,
}

impl Readiness {
    /// None of `parts` is up yet.
    #[must_use]
    pub fn waiting_for(parts: &[&'static str]) -> Self {
        Self { parts: Mutex::new(parts.iter().map(|part| (*part, false)).collect()), warnings: Mutex::default() }
    }

    /// A part has come up, or gone.
    pub fn set(&self, part: &'static str, up: bool) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(part, up);
    }

    /// Something keeps the service from nothing, but will unless an operator does something.
    pub fn warn(&self, what: &'static str, stands: bool) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if stands {
            warnings.insert(what)
        } else {
            warnings.remove(what)
        };
    }

    /// What wants an operator's eye.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Parts that are not up.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().filter(|(_, up)| !**up).map(|(part, _)| *part).collect()
    }
}

/// Paths that answer without a token.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// A path, who may use it, and what it does.
struct Route {
    path: &'static str,
    role: Role,
    methods: MethodRouter<App>,
    /// The one method that this is, where others of the path take another role.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests of default deny walk by it"))]
    only: Option<&'static str>,
}

/// Every route: the one list, from which the router is made and which the tests of default deny walk.
fn routes() -> Vec<Route> {
    use Role::{Administrator, Operator, Reader};
    let route = |path, role, methods| Route { path, role, methods, only: None };
    vec![
        route("/healthz", Reader, get(handlers::healthz)),
        route("/readyz", Reader, get(handlers::readyz)),
        route("/metrics", Reader, get(handlers::metrics)),
        route("/openapi.json", Reader, get(openapi::document)),
        route("/v1/fleet", Reader, get(handlers::fleet)),
        Route { only: Some("GET"), ..route("/v1/reference-values", Reader, get(references::in_force)) },
        Route { only: Some("POST"), ..route("/v1/reference-values", Operator, post(references::publish)) },
        route("/v1/devices", Reader, get(handlers::devices)),
        route("/v1/devices/{id}", Reader, get(handlers::device)),
        route("/v1/devices/{id}/history", Reader, get(handlers::history)),
        route("/v1/devices/{id}/result", Reader, get(handlers::result)),
        route("/v1/devices/{id}/ak-certificate", Reader, get(handlers::ak_certificate)),
        route("/v1/devices/{id}/approve", Operator, post(handlers::approve)),
        route("/v1/devices/{id}/revoke", Operator, post(handlers::revoke)),
        route("/v1/devices/{id}/check", Operator, post(handlers::check)),
        route("/v1/devices/{id}/labels", Operator, post(handlers::label)),
        route("/v1/devices/{id}/forget", Operator, post(handlers::forget)),
        route("/v1/allowed", Operator, post(handlers::allow)),
        route("/v1/operator-log", Reader, get(operators::log)),
        route("/v1/keys", Reader, get(operators::keys)),
        route("/v1/keys/rotate", Administrator, post(operators::rotate_keys)),
        route("/v1/tokens", Administrator, get(operators::tokens).post(operators::create_token)),
        route("/v1/tokens/{name}/revoke", Administrator, post(operators::revoke_token)),
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
    let add = |router: Router<App>, Route { path, role, methods, .. }| {
        if OPEN.contains(&path) { router.route(path, methods) } else { router.route(path, allow(role, methods)) }
    };
    routes()
        .into_iter()
        .fold(Router::new(), add)
        .fallback(|| async { Problem::new(Kind::NoSuchPath, "GET /openapi.json lists the paths") })
        .method_not_allowed_fallback(|| async { Problem::new(Kind::NoSuchMethod, "use GET to read and POST to act") })
        .layer(DefaultBodyLimit::max(MAX_HTTP_BODY))
        .layer(from_fn_with_state(app.clone(), authenticate))
        .with_state(app)
}

/// Who is calling, once the token has been recognised.
#[derive(Debug, Clone)]
struct Caller {
    name: String,
    role: Role,
}

/// Name of the token that `verifier init` makes.
pub(crate) const INIT: &str = "init";

/// Default deny: stands before the router, so a route cannot be forgotten.
async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let presented =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let caller = match presented {
        Some(presented) => match caller(&app, presented).await {
            Ok(caller) => caller,
            Err(error) => return Problem::from(error).into_response(),
        },
        None => None,
    };
    match caller {
        Some(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        None => {
            let detail = "send `Authorization: Bearer TOKEN` with the token that `verifier init` wrote, or one that \
                          `verifier token create` made";
            Problem::new(Kind::Unauthorized, detail).into_response()
        }
    }
}

/// Whose token that is. The one in the file needs no store, so that it works where the store does not.
async fn caller(app: &App, presented: &[u8]) -> Result<Option<Caller>, StoreError> {
    if app.token.is(presented) {
        return Ok(Some(Caller { name: INIT.to_owned(), role: Role::Administrator }));
    }
    let Some(digest) = Token::digest_of(presented) else { return Ok(None) };
    let now = (app.clock)();
    app.store
        .off_thread(move |store| {
            let known = store.token(&digest)?;
            if let Some(token) = known.as_ref().filter(|token| token.first_use_of_day(now)) {
                // A store that cannot be written to must not keep its readers out.
                drop(store.token_used(&token.name, now));
            }
            Ok(known.map(|TokenEntry { name, role, .. }| Caller { name, role }))
        })
        .await
}

/// A path for callers of this role and those above.
fn allow(role: Role, methods: MethodRouter<App>) -> MethodRouter<App> {
    methods.layer(from_fn(move |request: Request, next: Next| async move {
        match request.extensions().get::<Caller>() {
            Some(caller) if caller.role >= role => next.run(request).await,
            caller => {
                let is = caller.map_or("nobody", |caller| caller.role.name());
                let detail = format!("this takes the role `{}`, the token's is `{is}`", role.name());
                Problem::new(Kind::Forbidden, detail).into_response()
            }
        }
    }))
}

#[cfg(test)]
mod tests;
