//! Errors as the Python program wrote them. Errors that it did not have are one line of plain text.

use hyper::StatusCode;

use crate::http::refusal::Refusal;
use crate::http::response::{self, Response};
use crate::tracker::{self, LookupError};

/// The response to a request that is refused.
pub(in crate::http) fn refuse(refusal: Refusal) -> Response {
    let status = refusal.status();
    match refusal {
        Refusal::Client => response::html(status, "Forbidden"),
        Refusal::Path => response::json_text(status, r#"{"title": "404 Not Found"}"#),
        Refusal::Method => response::json_text(status, r#"{"title": "405 Method Not Allowed"}"#),
        Refusal::HeaderSize | Refusal::Body => response::line(status, &refusal.error()),
        Refusal::Spare | Refusal::Busy(_) => response::retried(response::line(status, &refusal.error())),
    }
}

/// The response when a lookup has no answer.
pub(super) fn lookup_failed(error: &LookupError) -> Response {
    match error {
        LookupError::Failed(error) => tracker_failed(error),
        LookupError::TooSlow => {
            response::retried(response::line(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()))
        }
    }
}

/// The response when the daemon can no longer follow the kernel, and is about to exit.
pub(super) fn tracker_failed(error: &tracker::Error) -> Response {
    log::error!("{error}");
    response::line(StatusCode::INTERNAL_SERVER_ERROR, response::TRACKER_FAILED)
}
