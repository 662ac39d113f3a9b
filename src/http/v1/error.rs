//! Errors as JSON: the error, and a hint how to fix it.

use hyper::StatusCode;
use serde::Serialize;

use crate::http::kind::Kind;
use crate::http::places::Busy;
use crate::http::refusal::Refusal;
use crate::http::response::{self, Response};
use crate::http::route::ROUTES;
use crate::tracker::{self, LookupError};

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

/// There is no place for the work.
impl From<Busy> for Failure {
    fn from(busy: Busy) -> Self {
        let hint = "wait for other requests to end, then try again".to_owned();
        Self { status: StatusCode::SERVICE_UNAVAILABLE, error: busy.error(), hint }
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

/// The daemon is about to exit, or the lookup took too long.
impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Failed(error) => error.into(),
            LookupError::TooSlow => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                error: error.to_string(),
                hint: "name nat_port, or one src_ip: these have an index".to_owned(),
            },
        }
    }
}

/// The body of an error.
pub(super) fn text(error: &str, hint: &str) -> String {
    serde_json::to_string(&ErrorBody { error, hint }).unwrap_or_default()
}

/// An error with its hint.
pub(super) fn error(status: StatusCode, error: &str, hint: &str) -> Response {
    response::retried(response::json_text(status, text(error, hint)))
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
        Refusal::Spare => "close connections that are not needed, raise max_connections, or try again",
        Refusal::Busy(busy) => match busy.kind {
            Kind::Stream => "close a stream, raise max_streams in [http_server], or try again",
            _ => "wait for other requests to end, then try again",
        },
    };
    error(refusal.status(), &refusal.error(), hint)
}
