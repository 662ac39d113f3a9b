//! `/healthz` and `/readyz`: whether the daemon answers, and whether its table is complete.

use hyper::StatusCode;

use super::error::{Failure, error};
use crate::http::app::App;
use crate::http::response::{self, Response};

/// 200 whenever the daemon answers at all.
pub(in crate::http) fn healthz() -> Response {
    response::json_text(StatusCode::OK, r#"{"healthy":true}"#)
}

/// 200 while the table is complete, otherwise 503: during a resync, or if the kernel does not report
/// connections.
pub(in crate::http) async fn readyz(app: &App) -> Result<Response, Failure> {
    Ok(if app.tracker.is_complete_now().await? {
        response::json_text(StatusCode::OK, r#"{"ready":true}"#)
    } else {
        let because = app.tracker.incomplete_because();
        let hint = because.first().map_or("try again shortly", |reason| reason.hint());
        error(StatusCode::SERVICE_UNAVAILABLE, "the table is incomplete", hint)
    })
}
