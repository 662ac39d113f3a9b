//! `/v1/auth`: for nginx's `auth_request`.
//!
//! nginx takes every status but 2xx, 401 and 403 for an error of its own, so
//! the answer is always 204 and its headers say the rest.

use std::net::IpAddr;
use std::str::FromStr;

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName};
use nfct::Protocol;

use super::{Failure, Response};
use crate::http::{App, response};
use crate::mapping::Mapping;
use crate::question::Question;
use crate::stats::{Outcome, Route};

/// More matches than this are not told apart any further.
const MOST_MATCHES: usize = 1000;

pub(super) async fn answer(app: &App, headers: &HeaderMap) -> Result<Response, Failure> {
    app.stats.requests.increment();
    let mut answer = response::empty(StatusCode::NO_CONTENT);
    let mut set = |name: &'static str, value: &str| {
        let response = std::mem::replace(&mut answer, response::empty(StatusCode::NO_CONTENT));
        answer = response::with_header(response, HeaderName::from_static(name), value);
    };
    let question = match read(headers) {
        Ok(question) => question,
        Err(text) => {
            app.stats.lookups.count(Route::Auth, Outcome::Bad);
            set("x-nat-found", "0");
            set("x-nat-error", &text);
            return Ok(answer);
        }
    };
    let found = app.tracker.find(&question, MOST_MATCHES).await;
    let found = found.inspect_err(|_| app.stats.lookups.count(Route::Auth, Outcome::Undecided))?;
    set("x-nat-complete", if found.complete { "1" } else { "0" });
    // A web server speaks TCP or, for HTTP/3, UDP.
    let usual = |mapping: &&Mapping| matches!(mapping.original.protocol, Protocol::Tcp | Protocol::Udp);
    let best = found.value.iter().filter(usual).max_by_key(|mapping| mapping.rank());
    app.stats.lookups.count(Route::Auth, Outcome::of(best.is_some(), found.complete));
    let Some(best) = best else {
        set("x-nat-found", "0");
        return Ok(answer);
    };
    let as_good = |other: &&Mapping| {
        other.is_live() == best.is_live() && other.original.protocol == best.original.protocol
    };
    let ambiguous = found.value.iter().filter(as_good).count() > 1;
    set("x-nat-found", "1");
    set("x-nat-src-ip", &best.src_ip().to_string());
    set("x-nat-src-port", &best.src_port().unwrap_or(0).to_string());
    set("x-nat-ambiguous", if ambiguous { "1" } else { "0" });
    Ok(answer)
}

/// `X-Real-IP` and `X-Real-Port` name the client as the web server sees it;
/// `X-Dst-IP` and `X-Dst-Port`, if sent, the address that the web server was
/// reached at.
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
