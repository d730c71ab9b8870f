//! One function a route.

use std::time::Duration;

use appraisal::{Code, Verdict};
use axum::{
    Extension, Json,
    body::Bytes,
    extract::{
        Path, Query, Request, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use evidence::claims::{DeviceId, Why};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, timeout_at},
};

use super::{
    App, Caller, Order,
    api::{
        AllowJson, AllowedJson, AllowedKeyJson, ApproveJson, AskedJson, AttestedJson, DeviceJson, DevicesJson,
        FleetJson, ForgetJson, ForgottenJson, HistoryJson, HistoryRowJson, LabelsJson, RevokeJson, SummaryJson, time,
    },
    problem::{Kind, Problem},
};
use crate::{
    identity::{read_id, read_product},
    limits::{MAX_ALLOWED, MAX_ALLOWED_BODY, MAX_CHECK_WAIT, MAX_LABELS, MAX_OPERATOR_TEXT, MAX_PAGE},
    store::{Allowed, Detail, Filter, Forgotten, LabelChange, Labelled, Unresolved},
};

pub(super) type Answer<T> = Result<Json<T>, Problem>;

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(app): State<App>) -> Result<String, Problem> {
    match (app.ready.missing(), app.ready.warnings()) {
        (missing, warnings) if missing.is_empty() && warnings.is_empty() => Ok("ready\n".to_owned()),
        (missing, warnings) if missing.is_empty() => Ok(format!("ready; but see to: {}\n", warnings.join(", "))),
        (missing, _) => Err(Problem::new(Kind::NotReady, format!("waiting for: {}", missing.join(", ")))),
    }
}

pub(super) async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    let now = (app.clock)();
    let fleet = app.store.off_thread(move |store| store.fleet(now)).await?;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media_type)], app.metrics.render(&fleet)).into_response())
}

pub(super) async fn fleet(State(app): State<App>) -> Answer<FleetJson> {
    let now = (app.clock)();
    let counts = app.store.off_thread(move |store| store.fleet(now)).await?;
    Ok(Json(FleetJson::from(&counts)))
}

/// Filter as it stands in the query.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilterQuery {
    verdict: Option<String>,
    overdue: Option<bool>,
    running: Option<String>,
    cause: Option<String>,
    product: Option<String>,
    release: Option<String>,
    label: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

impl FilterQuery {
    fn filter(self) -> Result<Filter, Problem> {
        let wrong = |what: &str| Problem::new(Kind::BadRequest, what);
        let digest = |text: &str| {
            let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
            <[u8; 32]>::try_from(bytes).ok()
        };
        let verdict = |name: String| {
            Verdict::from_name(&name).ok_or_else(|| wrong("`verdict` is affirmed, warning, contraindicated or unknown"))
        };
        let cause = |code: String| {
            Code::from_code(&code).ok_or_else(|| wrong("`cause` is no code of a cause; `docs/causes.md` lists them"))
        };
        let label = |text: String| {
            let (key, value) = text.split_once('=').ok_or_else(|| wrong("`label` is KEY=VALUE"))?;
            LabelChange::new(key, Some(value)).map_err(|error| wrong(&error.to_string()))?;
            Ok::<_, Problem>((key.to_owned(), value.to_owned()))
        };
        let limit = match self.limit {
            None => 0,
            Some(limit) if (1..=MAX_PAGE).contains(&limit) => limit,
            Some(_) => return Err(Problem::new(Kind::BadRequest, format!("`limit` is 1 to {MAX_PAGE}"))),
        };
        Ok(Filter {
            verdict: self.verdict.map(verdict).transpose()?,
            overdue: self.overdue.unwrap_or(false),
            running: self
                .running
                .map(|text| digest(&text).ok_or_else(|| wrong("`running` is a SHA-256, 64 hex digits")))
                .transpose()?,
            cause: self.cause.map(cause).transpose()?,
            product: self.product,
            release: self.release,
            label: self.label.map(label).transpose()?,
            limit,
            after: self
                .after
                .map(|text| text.parse().map_err(|_| wrong("`after` is `next` of the page before")))
                .transpose()?,
        })
    }
}

/// A query that is understood to its last parameter.
fn understood<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|rejected| Problem::new(Kind::BadRequest, rejected.body_text()))
}

/// A JSON body, read strictly. An empty one stands for `{}`.
pub(super) fn body<T: DeserializeOwned>(bytes: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    let bytes = bytes.map_err(|rejected| {
        let kind = if rejected.status() == StatusCode::PAYLOAD_TOO_LARGE { Kind::TooLarge } else { Kind::BadRequest };
        Problem::new(kind, rejected.body_text())
    })?;
    let json = if bytes.is_empty() { b"{}" } else { bytes.trim_ascii() };
    if !json.starts_with(b"{") {
        return Err(Problem::new(Kind::BadRequest, "body: a JSON object is expected"));
    }
    serde_json::from_slice(json).map_err(|error| Problem::new(Kind::BadRequest, format!("body: {error}")))
}

/// A line that an operator wrote: shown in terminals and tables later.
pub(super) fn line(name: &str, text: &str) -> Result<(), Problem> {
    if text.trim().is_empty() || text.len() > MAX_OPERATOR_TEXT || text.chars().any(char::is_control) {
        let detail = format!("`{name}` is one line of 1 to {MAX_OPERATOR_TEXT} bytes");
        return Err(Problem::new(Kind::BadRequest, detail));
    }
    Ok(())
}

pub(super) async fn devices(
    State(app): State<App>,
    query: Result<Query<FilterQuery>, QueryRejection>,
) -> Answer<DevicesJson> {
    let filter = understood(query)?.filter()?;
    let now = (app.clock)();
    let page = app.store.off_thread(move |store| store.devices(&filter, now)).await?;
    Ok(Json(DevicesJson {
        devices: page.devices.iter().map(SummaryJson::from).collect(),
        total: page.total,
        next: page.next.map(|id| id.to_string()),
    }))
}

async fn resolve(app: &App, prefix: String) -> Result<DeviceId, Problem> {
    Ok(app.store.off_thread(move |store| store.resolve(&prefix)).await?)
}

fn unknown(device: DeviceId) -> Problem {
    Unresolved::Unknown(device.to_string()).into()
}

async fn detail(app: &App, device: DeviceId) -> Result<Detail, Problem> {
    let now = (app.clock)();
    app.store.off_thread(move |store| store.device(device, now)).await?.ok_or_else(|| unknown(device))
}

pub(super) async fn device(State(app): State<App>, Path(id): Path<String>) -> Answer<DeviceJson> {
    let device = resolve(&app, id).await?;
    let json = DeviceJson::from(&detail(&app, device).await?);
    Ok(Json(json.vouched_by(&app.desk.rules().references)))
}

pub(super) async fn history(State(app): State<App>, Path(id): Path<String>) -> Answer<HistoryJson> {
    let device = resolve(&app, id).await?;
    let now = (app.clock)();
    let rows = app.store.off_thread(move |store| store.history(device, now)).await?;
    let state = app.store.off_thread(move |store| store.state(device)).await?;
    Ok(Json(HistoryJson {
        id: device.to_string(),
        history: rows.iter().map(HistoryRowJson::from).collect(),
        attested: state.and_then(|state| state.attested()).as_ref().map(AttestedJson::from),
    }))
}

pub(super) async fn result(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    let device = resolve(&app, id).await?;
    let result = app.store.off_thread(move |store| store.result(device)).await?;
    let result = result.ok_or_else(|| Problem::new(Kind::NoResult, format!("device {device} has no result yet")))?;
    // Its signature outlives what an operator or a list has said of the device since.
    let said = app.store.off_thread(move |store| store.state(device)).await?.map(|state| state.verdict);
    let summary = detail(&app, device).await?.summary;
    if summary.verdict == Verdict::Contraindicated && said != Some(Verdict::Contraindicated) {
        let why = summary.causes.first().map_or("a finding", |cause| cause.code.row().code);
        let detail = format!("device {device} has been contraindicated since its last result: {why}");
        return Err(Problem::new(Kind::ResultVoid, detail));
    }
    Ok(([(header::CONTENT_TYPE, "application/eat+cwt")], result).into_response())
}

pub(super) async fn ak_certificate(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    let device = resolve(&app, id).await?;
    let certificate = app.store.off_thread(move |store| store.ak_certificate(device)).await?;
    let certificate = certificate.ok_or_else(|| unknown(device))?.ok_or_else(|| {
        let detail = format!(
            "device {device} was enrolled before there were such certificates; it gets one when it enrols again"
        );
        Problem::new(Kind::NoResult, detail)
    })?;
    Ok(([(header::CONTENT_TYPE, "application/cwt")], certificate).into_response())
}

pub(super) async fn allow(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Answer<AllowedJson> {
    // Longer than any other body.
    let bytes = axum::body::to_bytes(request.into_body(), MAX_ALLOWED_BODY).await;
    let bytes = bytes.map_err(|error| Problem::new(Kind::TooLarge, format!("body: {error}")))?;
    let AllowJson { keys } = body(Ok(bytes))?;
    if !(1..=MAX_ALLOWED).contains(&keys.len()) {
        return Err(Problem::new(Kind::BadRequest, format!("`keys` has 1 to {MAX_ALLOWED} entries")));
    }
    let read = |(at, key): (usize, &AllowedKeyJson)| -> Result<Allowed, Problem> {
        let wrong = |why: &str| Problem::new(Kind::BadRequest, format!("`keys[{at}]`: {why}"));
        let digest = read_id(&key.id).map_err(wrong)?.0;
        Ok(Allowed { digest, product: key.product.as_deref().map(read_product).transpose().map_err(wrong)? })
    };
    let keys = keys.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let (listed, now) = (keys.len(), (app.clock)());
    let new = app.store.off_thread(move |store| store.allow(keys, &caller.name, now)).await?;
    Ok(Json(AllowedJson { listed, new }))
}

pub(super) async fn approve(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answer<DeviceJson> {
    let ApproveJson { product } = body(bytes)?;
    product.as_deref().map_or(Ok(()), |product| line("product", product))?;
    let device = resolve(&app, id).await?;
    let now = (app.clock)();
    if !app.store.off_thread(move |store| store.approve(device, product.as_deref(), &caller.name, now)).await? {
        return Err(unknown(device));
    }
    app.access_changed.notify_one();
    // The verdict follows with the next evidence: ask for it. Where too many wait, it comes in its own time.
    let _ = app.orders.try_send(Order::Check { device });
    Ok(Json(DeviceJson::from(&detail(&app, device).await?)))
}

pub(super) async fn revoke(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answer<DeviceJson> {
    let RevokeJson { why } = body(bytes)?;
    line("why", &why)?;
    let device = resolve(&app, id).await?;
    let now = (app.clock)();
    if !app.store.off_thread(move |store| store.revoke(device, &why, &caller.name, now)).await? {
        return Err(unknown(device));
    }
    app.access_changed.notify_one();
    Ok(Json(DeviceJson::from(&detail(&app, device).await?)))
}

pub(super) async fn label(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answer<DeviceJson> {
    let LabelsJson { labels } = body(bytes)?;
    let change = |(key, value): (&String, &Option<String>)| LabelChange::new(key, value.as_deref());
    let changes = labels.iter().map(change).collect::<Result<Vec<_>, _>>();
    let changes = changes.map_err(|error| Problem::new(Kind::BadRequest, error.to_string()))?;
    let device = resolve(&app, id).await?;
    let now = (app.clock)();
    match app.store.off_thread(move |store| store.label(device, changes, &caller.name, now)).await? {
        Labelled::Done => Ok(Json(DeviceJson::from(&detail(&app, device).await?))),
        Labelled::Unknown => Err(unknown(device)),
        Labelled::TooMany => {
            let detail = format!("a device has at most {MAX_LABELS} labels; remove some first");
            Err(Problem::new(Kind::TooMany, detail))
        }
    }
}

pub(super) async fn forget(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answer<ForgottenJson> {
    let ForgetJson { unblock } = body(bytes)?;
    let device = resolve(&app, id).await?;
    let now = (app.clock)();
    match app.store.off_thread(move |store| store.forget(device, unblock, &caller.name, now)).await? {
        Forgotten::Done => {
            app.access_changed.notify_one();
            Ok(Json(ForgottenJson { id: device.to_string(), forgotten: true }))
        }
        Forgotten::Unknown => Err(unknown(device)),
        Forgotten::Revoked => {
            let detail = format!(
                "device {device} is shut out, and could enrol anew if that were forgotten; say --and-unblock \
                 (`unblock`) if it may"
            );
            Err(Problem::new(Kind::Revoked, detail))
        }
    }
}

/// How long to wait for the answer of a check.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    wait: Option<u64>,
}

pub(super) async fn check(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let WaitQuery { wait } = understood(query)?;
    let wait = wait.unwrap_or(0);
    if wait > MAX_CHECK_WAIT {
        return Err(Problem::new(Kind::BadRequest, format!("`wait` is at most {MAX_CHECK_WAIT} seconds")));
    }
    let device = resolve(&app, id).await?;
    // Before asking, or the answer could be missed.
    let changed = app.store.subscribe();
    let before = detail(&app, device).await?;
    let asked = app.orders.try_send(Order::Check { device });
    asked.map_err(|_| Problem::new(Kind::Busy, "the device was not asked; try again in a moment"))?;
    if wait == 0 {
        return Ok((StatusCode::ACCEPTED, Json(AskedJson { id: device.to_string(), asked: true })).into_response());
    }
    let deadline = Instant::now() + Duration::from_secs(wait);
    let answer = fresh(&app, device, &before, changed, deadline).await?;
    Ok(Json(DeviceJson::from(&answer)).into_response())
}

/// The device once it has answered a request: evidence of another occasion may have been under way before it was
/// asked, and an answer whose logs are still incomplete is followed by more. At the deadline, whatever is new.
async fn fresh(
    app: &App,
    device: DeviceId,
    before: &Detail,
    mut changed: Receiver<DeviceId>,
    deadline: Instant,
) -> Result<Detail, Problem> {
    let mut newest = None;
    let mut answered = false;
    loop {
        match timeout_at(deadline, changed.recv()).await {
            Ok(Ok(other)) if other != device => continue,
            Ok(Ok(_) | Err(RecvError::Lagged(_))) => {}
            Ok(Err(RecvError::Closed)) | Err(_) => break,
        }
        let now = detail(app, device).await?;
        if now.evidence != before.evidence {
            answered |= now.summary.last_check == Some(Why::Request);
            let complete = now.summary.causes.iter().all(|cause| cause.code != Code::LogIncomplete);
            if answered && complete {
                return Ok(now);
            }
            newest = Some(now);
        }
    }
    newest.ok_or_else(|| {
        let last = before.summary.last_evidence.map_or_else(|| "none".to_owned(), time);
        let detail = format!("device {device} has not answered; its last evidence: {last}. Is its attester running?");
        Problem::new(Kind::CheckTimeout, detail)
    })
}
