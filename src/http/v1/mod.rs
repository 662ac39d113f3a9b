//! The new interface, `/v1/…`, the two questions of health, and `/metrics`.
//!
//! `question` reads what is asked, `shape` writes mappings, and each route has
//! a module: `lookup`, `mappings`, `events`, `auth`, `metrics`. Every error is JSON with
//! what is wrong and how to mend it. The whole is described in
//! `doc/openapi.json`, which is served too.

mod auth;
mod events;
mod lookup;
mod mappings;
mod metrics;
mod question;
mod shape;

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::App;
use super::response::{self, Response};

/// The description of this interface.
const OPENAPI: &str = include_str!("../../../doc/openapi.json");

/// What is wrong with a request, and how to mend it.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    status: StatusCode,
    error: String,
    hint: String,
}

impl Failure {
    fn bad(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error: error.into(), hint: hint.into() }
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        self::failure(failure.status, &failure.error, &failure.hint)
    }
}

/// The kernel can't be followed any more, and the process is about to end.
impl From<nfct::Error> for Failure {
    fn from(error: nfct::Error) -> Self {
        log::error!("{error}");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            error: "the kernel can't be followed any more".to_owned(),
            hint: "the daemon ends and should be started again; its log says more".to_owned(),
        }
    }
}

/// An error as JSON.
pub(super) fn failure(status: StatusCode, error: &str, hint: &str) -> Response {
    #[derive(Serialize)]
    struct Shown<'a> {
        error: &'a str,
        hint: &'a str,
    }
    let text = serde_json::to_string(&Shown { error, hint }).unwrap_or_default();
    response::json_text(status, text)
}

/// The refusal of a client outside `ip_acl`.
pub(super) fn forbidden() -> Response {
    failure(StatusCode::FORBIDDEN, "this client may not ask", "add its address to ip_acl in [http_server]")
}

/// Whether a path belongs here.
pub(super) fn is_route(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics" | "/v1") || path.starts_with("/v1/")
}

pub(super) async fn answer(app: &Arc<App>, request: Request<Incoming>) -> Response {
    let path = request.uri().path();
    let allowed = match path {
        "/v1/lookup" => "GET, HEAD, POST, OPTIONS",
        "/v1/mappings" | "/v1/events" | "/v1/auth" | "/v1/openapi.json" | "/healthz" | "/readyz"
        | "/metrics" => "GET, HEAD, OPTIONS",
        _ => {
            let hint = "the routes are /v1/lookup, /v1/mappings, /v1/events, /v1/auth and /v1/openapi.json";
            return failure(StatusCode::NOT_FOUND, "there is no such route", hint);
        }
    };
    match (request.method(), path) {
        (&Method::OPTIONS, _) => return response::allowing(response::empty(StatusCode::NO_CONTENT), allowed),
        (&Method::GET | &Method::HEAD, _) | (&Method::POST, "/v1/lookup") => {}
        _ => {
            let refusal = failure(
                StatusCode::METHOD_NOT_ALLOWED,
                "this route does not know that method",
                "use one of those in the Allow header",
            );
            return response::allowing(refusal, allowed);
        }
    }
    let has_body = !hyper::body::Body::is_end_stream(request.body());
    if has_body && request.method() != Method::POST {
        let hint = "only POST /v1/lookup takes a body";
        return failure(StatusCode::PAYLOAD_TOO_LARGE, "a request here has no body", hint);
    }
    let answer = match path {
        "/v1/lookup" if request.method() == Method::POST => lookup::many(app, request.into_body()).await,
        "/v1/lookup" => lookup::one(app, request.uri().query()).await,
        "/v1/mappings" => mappings::answer(app.clone(), &request),
        "/v1/events" => events::answer(app.clone(), &request),
        "/v1/auth" => auth::answer(app, request.headers()).await,
        "/metrics" => metrics::answer(app, request.headers()).await,
        "/readyz" => Ok(ready(app)),
        "/healthz" => Ok(response::json_text(StatusCode::OK, r#"{"healthy":true}"#)),
        _ => Ok(response::json_text(StatusCode::OK, OPENAPI)),
    };
    answer.unwrap_or_else(Response::from)
}

/// Ready once the kernel's table was read whole, and not while a loss is being mended.
fn ready(app: &App) -> Response {
    if app.tracker.is_complete() {
        response::json_text(StatusCode::OK, r#"{"ready":true}"#)
    } else {
        failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "the kernel's table is still being read",
            "ask again in a moment; look-ups are answered meanwhile, with complete: false",
        )
    }
}
