//! `/healthz` and `/readyz`: whether the daemon answers, and whether its table is complete.

use hyper::StatusCode;

use super::error::error;
use crate::http::app::App;
use crate::http::response::{self, Response};

/// 200 whenever the daemon answers at all.
pub(in crate::http) fn healthz() -> Response {
    response::json_text(StatusCode::OK, r#"{"healthy":true}"#)
}

/// 200 once the kernel's table has been read completely, and 503 during a resync.
pub(in crate::http) fn readyz(app: &App) -> Response {
    if app.tracker.is_complete() {
        response::json_text(StatusCode::OK, r#"{"ready":true}"#)
    } else {
        error(
            StatusCode::SERVICE_UNAVAILABLE,
            "the kernel's table is still being read",
            "try again shortly: until then lookups are answered with complete: false",
        )
    }
}
