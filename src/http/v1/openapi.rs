//! `/v1/openapi.json`: the description of all routes.

use hyper::StatusCode;

use crate::http::response::{self, Response};

const OPENAPI: &str = include_str!("../../../doc/openapi.json");

/// The document.
pub(in crate::http) fn answer() -> Response {
    response::json_text(StatusCode::OK, OPENAPI)
}
