//! Errors as JSON: the error, and a hint how to fix it.

use hyper::StatusCode;
use serde::Serialize;

use crate::http::refusal::Refusal;
use crate::http::response::{self, Response};
use crate::http::route::ROUTES;
use crate::tracker;

/// An error response: the error, and a hint how to fix it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) struct Failure {
    pub(super) status: StatusCode,
    pub(super) error: String,
    pub(super) hint: String,
}

/// The body of an error.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    hint: &'a str,
}

impl Failure {
    /// A request that is not valid.
    pub(super) fn bad(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error: error.into(), hint: hint.into() }
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        error(failure.status, &failure.error, &failure.hint)
    }
}

/// The daemon can no longer follow the kernel, and is about to exit; or the system lacks memory.
impl From<tracker::Error> for Failure {
    fn from(error: tracker::Error) -> Self {
        if error.is_transient() {
            log::warn!("{error}; trying again");
            return Self {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                error: "the kernel's events cannot be read at this moment".to_owned(),
                hint: "try again: the system lacks memory, and the log has the details".to_owned(),
            };
        }
        log::error!("{error}");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            error: response::TRACKER_FAILED.to_owned(),
            hint: "the daemon is about to exit: its log has the reason".to_owned(),
        }
    }
}

/// An error with its hint.
pub(super) fn error(status: StatusCode, error: &str, hint: &str) -> Response {
    response::json_text(status, serde_json::to_string(&ErrorBody { error, hint }).unwrap_or_default())
}

/// The response to a request that is refused.
pub(in crate::http) fn refuse(refusal: Refusal) -> Response {
    let routes;
    let hint = match refusal {
        Refusal::Client => "add its address to ip_acl in [http_server]",
        Refusal::HeaderSize => "send fewer or shorter header lines",
        Refusal::Path => {
            let paths = ROUTES.iter().map(|route| route.path).filter(|path| path.starts_with("/v1/"));
            routes = format!("the routes are {}", paths.collect::<Vec<_>>().join(", "));
            &routes
        }
        Refusal::Method => "use a method of the Allow header",
        Refusal::Body => "send the request without a body",
    };
    error(refusal.status(), refusal.error(), hint)
}
