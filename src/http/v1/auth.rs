//! `/v1/auth`: for nginx's `auth_request`.
//!
//! nginx treats every status except 2xx, 401 and 403 as an internal error, so the status is always 204
//! and the result is in the headers.

use std::net::IpAddr;
use std::str::FromStr;

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::error::Failure;
use crate::http::app::App;
use crate::http::counters::LookupOutcome;
use crate::http::response::{self, Response};
use crate::http::route::RouteLabel;
use crate::mapping::{Mapping, Protocol};
use crate::question::Question;

/// The maximum number of matches among which the best is chosen.
const MAX_MATCHES: usize = 1000;

/// Looks up the client that the headers name.
pub(in crate::http) async fn answer(app: &App, headers: &HeaderMap) -> Result<Response, Failure> {
    app.counters.requests.increment();
    let mut response = response::empty(StatusCode::NO_CONTENT);
    let mut set = |name: &'static str, value: &str| {
        // A value that cannot be in a header is left out.
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    };
    let question = match read(headers) {
        Ok(question) => question,
        Err(text) => {
            count(app, LookupOutcome::Bad);
            set("x-nat-found", "0");
            set("x-nat-error", &text);
            return Ok(response);
        }
    };
    let found = app.tracker.find(&question, MAX_MATCHES).await;
    let found = found.inspect_err(|_| count(app, LookupOutcome::Undecided))?;
    set("x-nat-complete", if found.complete { "1" } else { "0" });
    // HTTP uses TCP or, for HTTP/3, UDP.
    let is_http = |mapping: &&Mapping| matches!(mapping.original.protocol, Protocol::Tcp | Protocol::Udp);
    let best = found.value.iter().filter(is_http).max_by_key(|mapping| mapping.rank());
    count(app, LookupOutcome::of(best.is_some(), found.complete));
    let Some(best) = best else {
        set("x-nat-found", "0");
        return Ok(response);
    };
    let is_as_good = |other: &&Mapping| {
        other.is_live() == best.is_live() && other.original.protocol == best.original.protocol
    };
    let ambiguous = found.value.iter().filter(is_as_good).count() > 1;
    set("x-nat-found", "1");
    set("x-nat-src-ip", &best.src_ip().to_string());
    set("x-nat-src-port", &best.src_port().unwrap_or(0).to_string());
    set("x-nat-ambiguous", if ambiguous { "1" } else { "0" });
    Ok(response)
}

fn count(app: &App, outcome: LookupOutcome) {
    app.counters.lookups.count(RouteLabel::Auth, outcome);
}

/// `X-Real-IP` and `X-Real-Port` are the client's address and port as the web server sees them.
/// `X-Dst-IP` and `X-Dst-Port`, if sent, are the web server's own.
fn read(headers: &HeaderMap) -> Result<Question, String> {
    let address = header::<IpAddr>(headers, "x-real-ip", "an IP address")?.ok_or("X-Real-IP is missing")?;
    let port = header::<u16>(headers, "x-real-port", "a port")?.ok_or("X-Real-Port is missing")?;
    let server = header::<IpAddr>(headers, "x-dst-ip", "an IP address")?;
    Ok(Question {
        nat_ip: Some(address.to_canonical().into()),
        nat_port: Some(port),
        server_ip: server.map(|server| server.to_canonical().into()),
        server_port: header(headers, "x-dst-port", "a port")?,
        ..Question::default()
    })
}

fn header<T: FromStr>(headers: &HeaderMap, name: &str, expected: &str) -> Result<Option<T>, String> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    match text.trim().parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(format!("{name}: expected {expected}")),
    }
}
