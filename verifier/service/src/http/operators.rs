//! The verifier's own matters: tokens, keys, and the log of what operators did.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
};
use tokio::sync::oneshot;

use super::{
    App, Caller, INIT, Order, Token,
    api::{
        CreateTokenJson, KeysJson, NewTokenJson, OperatorActionJson, OperatorLogJson, TokenJson, TokenRevokedJson,
        TokensJson,
    },
    handlers::{Answer, body},
    problem::{Kind, Problem},
};
use crate::{
    limits::{MAX_TOKEN_NAME, MAX_TOKENS},
    store::{Role, TokenAdded},
};

pub(super) async fn tokens(State(app): State<App>) -> Answer<TokensJson> {
    let known = app.store.off_thread(|store| store.tokens()).await?;
    let init = TokenJson { name: INIT.to_owned(), role: Role::Administrator, created: None, last_used: None };
    Ok(Json(TokensJson { tokens: std::iter::once(init).chain(known.iter().map(TokenJson::from)).collect() }))
}

/// Names stand in history and in paths.
fn name(text: &str) -> Result<(), Problem> {
    let legal = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    if (1..=MAX_TOKEN_NAME).contains(&text.len()) && text.bytes().all(legal) {
        return Ok(());
    }
    let detail = format!("a token's name is 1 to {MAX_TOKEN_NAME} lower-case letters, digits, `.`, `_` and `-`");
    Err(Problem::new(Kind::BadRequest, detail))
}

pub(super) async fn create_token(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answer<NewTokenJson> {
    let CreateTokenJson { name: asked, role } = body(bytes)?;
    name(&asked)?;
    let token = Token::random();
    let token = token.ok_or_else(|| Problem::new(Kind::Store, "the system's random number generator gives nothing"))?;
    let (digest, now, named) = (token.digest(), (app.clock)(), asked.clone());
    let added = if asked == INIT {
        TokenAdded::Taken
    } else {
        app.store.off_thread(move |store| store.add_token(&named, digest, role, &caller.name, now)).await?
    };
    match added {
        TokenAdded::Done => Ok(Json(NewTokenJson { name: asked, role, token: token.expose().to_owned() })),
        TokenAdded::Taken => {
            let detail = format!("there is a token named `{asked}`; take another name, or revoke that one first");
            Err(Problem::new(Kind::NameTaken, detail))
        }
        TokenAdded::TooMany => {
            Err(Problem::new(Kind::TooMany, format!("there are {MAX_TOKENS} tokens; revoke those that nobody uses")))
        }
    }
}

pub(super) async fn revoke_token(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(asked): Path<String>,
) -> Answer<TokenRevokedJson> {
    if asked == INIT {
        let detail = "the token of `verifier init` ends with its file: write another into it and restart the service";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    let (now, named) = ((app.clock)(), asked.clone());
    if app.store.off_thread(move |store| store.revoke_token(&named, &caller.name, now)).await? {
        Ok(Json(TokenRevokedJson { name: asked, revoked: true }))
    } else {
        let shown: String = asked.chars().take(2 * MAX_TOKEN_NAME).collect();
        Err(Problem::new(Kind::UnknownToken, format!("there is no token named `{shown}`")))
    }
}

pub(super) async fn keys(State(app): State<App>) -> Answer<KeysJson> {
    let keys = app.keys.borrow().clone();
    let keys = keys.ok_or_else(|| Problem::new(Kind::NoKeys, "try again once /readyz says ready"))?;
    Ok(Json(KeysJson::from(keys.as_ref())))
}

pub(super) async fn rotate_keys(State(app): State<App>, Extension(caller): Extension<Caller>) -> Answer<KeysJson> {
    let (reply, answer) = oneshot::channel();
    let ordered = app.orders.try_send(Order::RotateKeys(reply));
    ordered.map_err(|_| Problem::new(Kind::Busy, "the keys are as they were; try again in a moment"))?;
    let failed = |why: String| Problem::new(Kind::NotRotated, why);
    let ended = |_| failed("the service is ending".to_owned());
    let keys = answer.await.map_err(ended)?.map_err(failed)?;
    let (now, made) = ((app.clock)(), keys.keys.sequence.to_string());
    app.store.off_thread(move |store| store.log_operator(&caller.name, "keys rotate", &made, now)).await?;
    Ok(Json(KeysJson::from(keys.as_ref())))
}

pub(super) async fn log(State(app): State<App>) -> Answer<OperatorLogJson> {
    let log = app.store.off_thread(|store| store.operator_log()).await?;
    Ok(Json(OperatorLogJson { log: log.iter().map(OperatorActionJson::from).collect() }))
}
