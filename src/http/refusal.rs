//! Requests that are refused before a handler sees them. Each family of routes writes them in its own
//! format: `legacy::error` and `v1::error`.

use std::borrow::Cow;

use hyper::StatusCode;

use super::places::Busy;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The client is not in `ip_acl`.
    Client,
    /// The request header has too many lines or bytes.
    HeaderSize,
    /// No route has this path.
    Path,
    /// The route does not support the method.
    Method,
    /// The request has a body, and its method does not take one.
    Body,
    /// Too many connections are open: this one gets health and metrics only.
    Spare,
    /// There is no place for the work.
    Busy(Busy),
}

impl Refusal {
    /// The status of the response.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Refusal::Client => StatusCode::FORBIDDEN,
            Refusal::HeaderSize => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::Path => StatusCode::NOT_FOUND,
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Spare | Refusal::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The text of the error, in one line.
    pub(super) fn error(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Refusal::Client => "this client is not allowed",
            Refusal::HeaderSize => {
                "the request header has more than 32 lines (100 for /v1/auth) or more than 16 KiB"
            }
            Refusal::Path => "no such route",
            Refusal::Method => "the route does not support this method",
            Refusal::Body => "this request must not have a body",
            Refusal::Spare => "too many connections are open, and all of them have requests",
            Refusal::Busy(busy) => return Cow::Owned(busy.error()),
        })
    }
}
