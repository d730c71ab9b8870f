//! Reference values: what is in force and what is not, and a document that an operator publishes.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use tokio::time::timeout;

use super::{
    App, Caller,
    api::{PublishedJson, ReferencesJson},
    handlers::Answer,
    problem::{Kind, Problem},
};
use crate::{
    limits::{MAX_PUBLISHED, PUBLISH_ARRIVES, PUBLISH_WAIT},
    references::PublishError,
};

pub(super) async fn in_force(State(app): State<App>) -> Answer<ReferencesJson> {
    // Some thousand releases are put into words off the threads that serve.
    let json = app
        .store
        .off_thread(move |_| Ok::<_, Problem>(ReferencesJson::new(&app.desk.rules().references, &app.desk.status())));
    Ok(Json(json.await?))
}

pub(super) async fn publish(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Answer<PublishedJson> {
    let busy = || Problem::new(Kind::Busy, "another document is being published; try again in a moment");
    // Before the body: many at a time would fill the memory.
    let permit = timeout(Duration::from_secs(PUBLISH_WAIT), app.publishing.clone().acquire_owned()).await;
    let _permit = permit.map_err(|_| busy())?.map_err(|_| busy())?;
    let arrives = axum::body::to_bytes(request.into_body(), MAX_PUBLISHED);
    let late =
        |_| Problem::new(Kind::BadRequest, format!("the document did not arrive within {PUBLISH_ARRIVES} seconds"));
    let bytes = timeout(Duration::from_secs(PUBLISH_ARRIVES), arrives).await.map_err(late)?;
    let bytes = bytes.map_err(|error| Problem::new(Kind::TooLarge, format!("body: {error}")))?;
    if bytes.is_empty() {
        return Err(Problem::new(
            Kind::BadRequest,
            "the body is the signed document, as `reference-values sign` wrote it",
        ));
    }
    let (desk, now) = (app.desk.clone(), (app.clock)());
    let published = app.store.off_thread(move |store| {
        let published = desk.publish(&bytes)?;
        let about = format!("{} {} ({})", published.title.product, published.title.name, published.file);
        // It is in force: that it could not be written down does not change that.
        if let Err(error) = store.log_operator(&caller.name, "publish", &about, now) {
            tracing::error!("{about} was published by {}, which the log lacks: {error}", caller.name);
        }
        Ok::<_, Problem>(published)
    });
    Ok(Json(PublishedJson::from(&published.await?)))
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Refused(fault) => Self::new(Kind::Refused, fault.why).with_code(fault.code),
            PublishError::Clash(fault) => Self::new(Kind::Clash, fault.why).with_code(fault.code),
            PublishError::Unwritable { .. } => Self::new(Kind::Unwritable, error.to_string()),
            PublishError::Rules(_) => Self::new(Kind::Unwritable, error.to_string()),
        }
    }
}
