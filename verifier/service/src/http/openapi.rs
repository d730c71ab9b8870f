//! The API's description, OpenAPI 3.1. A test holds it against the routes.

use axum::{http::header, response::IntoResponse};

/// The document.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}
