//! `/v1/auth`: for web servers that ask another server about each request, such as nginx with `auth_request`.
//!
//! nginx treats every status except 2xx, 401 and 403 as an internal error, so the status is always 204
//! and the result is in the headers. If nobody is found, a header says why, because a wrong
//! configuration of the web server looks the same as a client that is not behind the gateway.

use std::net::IpAddr;
use std::str::FromStr;

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::error::Failure;
use super::find::{MAX_MATCHES, find};
use super::host::Hosts;
use super::mapping::opened;
use natnames::Span;

use crate::http::app::App;
use crate::http::counters::{LookupOutcome, Nobody};
use crate::http::places::Client;
use crate::http::response::{self, Response};
use crate::http::route::RouteLabel;
use crate::mapping::{Host, Mapping, Protocol, Traced};
use crate::question::{Question, StateFilter};
use crate::table::Table;
use crate::tuples::PublicEnd;

/// Looks up the client that the headers name.
pub(in crate::http) async fn answer(
    app: &App,
    headers: &HeaderMap,
    client: Client,
    hosts: &Hosts,
) -> Result<Response, Failure> {
    app.counters.here().requests.increment();
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
    // The best is chosen among all of them.
    let found = find(app, &question, client).await;
    let found = found.inspect_err(|_| count(app, LookupOutcome::Undecided))?.answer;
    let chosen = choose(&question, &found.value);
    // With a live mapping of another protocol, the closed ones of TCP and UDP may still be missing.
    let complete = found.complete && (chosen.is_some() || found.value.is_empty());
    set("x-nat-complete", if complete { "1" } else { "0" });
    let Some((host, opened, ambiguous)) = chosen else {
        count(app, LookupOutcome::of(false, complete));
        let reason = why_nobody(app, &question).await?;
        app.counters.here().nobody.count(reason);
        set("x-nat-found", "0");
        set("x-nat-reason", reason.as_str());
        return Ok(response);
    };
    count(app, LookupOutcome::of(true, found.complete));
    set("x-nat-found", "1");
    set("x-nat-src-ip", &host.ip.to_string());
    set("x-nat-src-port", &host.port.unwrap_or(0).to_string());
    if host.zone != 0 {
        set("x-nat-zone", &host.zone.to_string());
    }
    set("x-nat-ambiguous", if ambiguous { "1" } else { "0" });
    hosts.describe(host.ip, opened, |name, value| set(name, &value));
    Ok(response)
}

/// Why nothing matches.
async fn why_nobody(app: &App, question: &Question) -> Result<Nobody, Failure> {
    let Question { nat_ip, nat_port, .. } = *question;
    let may_be_public = |table: &Table, _| nat_ip.is_some_and(|address| table.may_be_public(address.ip()));
    if !app.tracker.read(may_be_public).await?.value {
        return Ok(Nobody::UnknownAddress);
    }
    let by_public_end = Question { nat_ip, nat_port, state: StateFilter::Live, ..Question::default() };
    let others = app.tracker.find(&by_public_end, 1).await?.value;
    Ok(if others.is_empty() { Nobody::UnknownPort } else { Nobody::OtherServer })
}

/// The best inside host, when its mapping opened, and whether another one could be meant: any other address, port or zone behind
/// an end that matches, if the mapping is in the same state. Only a live mapping excludes others, the
/// closed ones: none of protocol, translation and age tells which of two hosts is the client.
fn choose(question: &Question, found: &[Traced]) -> Option<(Host, Span, bool)> {
    // HTTP uses TCP or, for HTTP/3, UDP.
    let is_http =
        |traced: &&Traced| matches!(traced.mapping.original.protocol, Protocol::Tcp | Protocol::Udp);
    let ends = || {
        found.iter().filter(is_http).flat_map(|traced| {
            question
                .public_ends(&traced.mapping)
                .map(move |end| (&traced.mapping, end, traced.inside_host(&end)))
        })
    };
    let rank = |(mapping, end, _): &(&Mapping, PublicEnd, Host)| {
        let is_tcp = mapping.original.protocol == Protocol::Tcp;
        (mapping.is_live(), is_tcp, end.is_translated(), mapping.age_rank())
    };
    let (best, _, host) = ends().max_by_key(rank)?;
    let other = ends().any(|(mapping, _, other)| mapping.is_live() == best.is_live() && other != host);
    Some((host, opened(best), other || found.len() > MAX_MATCHES))
}

fn count(app: &App, outcome: LookupOutcome) {
    app.counters.here().lookups.count(RouteLabel::Auth, outcome);
}

/// `X-Real-IP` and `X-Real-Port` are the client's address and port as the web server sees them.
/// `X-Dst-IP` and `X-Dst-Port`, if sent, are the web server's own; `X-Protocol` is the connection's protocol
/// and `X-Zone` its conntrack zone.
fn read(headers: &HeaderMap) -> Result<Question, String> {
    let address = header::<IpAddr>(headers, "x-real-ip", "an IP address")?.ok_or("X-Real-IP is missing")?;
    let port = header::<u16>(headers, "x-real-port", "a port")?.ok_or("X-Real-Port is missing")?;
    let server = header::<IpAddr>(headers, "x-dst-ip", "an IP address")?;
    Ok(Question {
        nat_ip: Some(address.to_canonical().into()),
        nat_port: Some(port),
        peer_ip: server.map(|server| server.to_canonical().into()),
        peer_port: header(headers, "x-dst-port", "a port")?,
        protocol: header::<Transport>(headers, "x-protocol", Transport::EXPECTED)?
            .map(|Transport(protocol)| protocol),
        zone: header(headers, "x-zone", "a conntrack zone, 0 to 65535")?,
        ..Question::default()
    })
}

/// The transport protocol of an HTTP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Transport(Protocol);

impl Transport {
    const EXPECTED: &str = "tcp, udp, or nginx's $server_protocol such as HTTP/1.1";
}

/// `tcp`, `udp`, or the version of HTTP: 3 uses UDP, those before use TCP.
impl FromStr for Transport {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.to_ascii_lowercase();
        let version = text.strip_prefix("http/").map(|version| version.split('.').next().unwrap_or_default());
        match (text.as_str(), version) {
            ("tcp", _) | (_, Some("0" | "1" | "2")) => Ok(Self(Protocol::Tcp)),
            ("udp", _) | (_, Some("3")) => Ok(Self(Protocol::Udp)),
            _ => Err(()),
        }
    }
}

fn header<T: FromStr>(headers: &HeaderMap, name: &str, expected: &str) -> Result<Option<T>, String> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    match text.trim().parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(format!("{name}: expected {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_http_tells_the_transport_protocol() {
        let read = |text: &str| text.parse::<Transport>().ok().map(|Transport(protocol)| protocol);
        for text in ["tcp", "TCP", "HTTP/0.9", "HTTP/1.0", "http/1.1", "HTTP/2.0", "HTTP/2"] {
            assert_eq!(read(text), Some(Protocol::Tcp), "{text}");
        }
        for text in ["udp", "Udp", "HTTP/3.0", "http/3"] {
            assert_eq!(read(text), Some(Protocol::Udp), "{text}");
        }
        for text in ["", "quic", "HTTP/", "HTTP/4.0", "HTTP/30", "HTTP", "17", "1.1"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
