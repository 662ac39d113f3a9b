//! `/{key_name}/{value}` and `/{value}`: the best mapping with a value of the configured key.

use std::time::{Duration, Instant};

use hyper::header::HeaderMap;
use hyper::{StatusCode, Uri};

use super::error::lookup_failed;
use super::mapping;
use crate::config::Key;
use crate::http::app::App;
use crate::http::counters::LookupOutcome;
use crate::http::kind::Kind;
use crate::http::places::Client;
use crate::http::response::{self, Response};
use crate::http::route::{self, RouteLabel};
use crate::mapping::{Protocol, Traced};
use crate::tracker::{Answer, LookupError};
use crate::tuples::KeyValue;

/// How long a lookup that found nothing waits for the table to become complete.
pub(super) const TABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Wanted {
    key: Key,
    value: KeyValue,
    protocol: Option<Protocol>,
}

/// Reads the last segment of the path. A segment before it must name the configured key.
pub(in crate::http) fn read(app: &App, key: Key, uri: &Uri) -> Result<Wanted, Box<Response>> {
    app.counters.here().requests.increment();
    let path = route::decode(uri.path());
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (name, value) = match path.bytes().position(|byte| byte == b'/') {
        Some(slash) => (Some(&path[..slash]), &path[slash + 1..]),
        None => (None, path),
    };
    if name.is_some_and(|name| name != key.as_str()) {
        count(app, LookupOutcome::Bad);
        return Err(Box::new(response::html(StatusCode::BAD_REQUEST, "Mismatch")));
    }
    let bad = |text: String| {
        count(app, LookupOutcome::Bad);
        Box::new(response::line(StatusCode::BAD_REQUEST, &text))
    };
    let protocol = read_protocol(uri.query()).map_err(bad)?;
    let value = read_value(key, value).map_err(bad)?;
    let Some(value) = value else { return Err(Box::new(not_found(app))) };
    Ok(Wanted { key, value, protocol })
}

/// Looks it up for a request that began at this moment. `header` is that of the request, whose memory the response gets.
pub(in crate::http) async fn answer(
    app: &App,
    wanted: Wanted,
    client: Client,
    header: HeaderMap,
    begun: Instant,
) -> Response {
    let Wanted { key, value, protocol } = wanted;
    match app.tracker.best(key, value, protocol).await {
        Ok(Answer { value: Some(traced), complete }) if complete || traced.mapping.is_live() => {
            found(app, &traced, header, begun)
        }
        // Each connection has memory for this; so what is rare is boxed.
        other => Box::pin(answer_later(app, wanted, client, header, begun, other)).await,
    }
}

/// The response to a lookup whose first answer was this.
async fn answer_later(
    app: &App,
    Wanted { key, value, protocol }: Wanted,
    client: Client,
    header: HeaderMap,
    begun: Instant,
    first: Result<Answer<Option<Traced>>, LookupError>,
) -> Response {
    let (mut answer, mut waited) = (first, false);
    loop {
        match answer {
            Err(error) => {
                count(app, LookupOutcome::Undecided);
                return lookup_failed(&error);
            }
            Ok(answer) => match answer.value {
                Some(traced) if traced.mapping.is_live() || answer.complete => {
                    return found(app, &traced, header, begun);
                }
                None if answer.complete => return not_found(app),
                // A closed one is not the answer while a live one may be missing.
                _ => {
                    // If too many wait already, the others get at once what a timeout gives.
                    let place = match waited {
                        false => app.places.take(Kind::Incomplete, client).ok(),
                        true => None,
                    };
                    let Some(_place) = place else { return undecided(app) };
                    app.tracker.wait_complete(TABLE_TIMEOUT).await;
                    waited = true;
                }
            },
        }
        answer = app.tracker.best(key, value, protocol).await;
    }
}

fn found(app: &App, traced: &Traced, header: HeaderMap, begun: Instant) -> Response {
    count(app, LookupOutcome::Found);
    response::json_with_header(header, mapping::to_json(traced, begun))
}

fn count(app: &App, outcome: LookupOutcome) {
    app.counters.here().lookups.count(RouteLabel::Legacy, outcome);
}

fn undecided(app: &App) -> Response {
    count(app, LookupOutcome::Undecided);
    let text = "not found, but the table is incomplete: try again";
    response::retried(response::line(StatusCode::SERVICE_UNAVAILABLE, text))
}

fn not_found(app: &App) -> Response {
    count(app, LookupOutcome::NotFound);
    response::html(StatusCode::NOT_FOUND, "Not found")
}

/// `?protocol=tcp|udp`; other parameters are ignored.
fn read_protocol(query: Option<&str>) -> Result<Option<Protocol>, String> {
    let given =
        query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("protocol="));
    match given {
        None => Ok(None),
        Some("tcp") => Ok(Some(Protocol::Tcp)),
        Some("udp") => Ok(Some(Protocol::Udp)),
        Some(other) => Err(format!("protocol: found \"{}\", expected tcp or udp", shorten(other))),
    }
}

/// The value of a port or an address key; `None` for a number outside the range of ports.
fn read_value(key: Key, text: &str) -> Result<Option<KeyValue>, String> {
    let trimmed = text.trim();
    if !key.is_port() {
        return match trimmed.parse::<std::net::IpAddr>() {
            Ok(address) => Ok(Some(KeyValue::Ip(address.to_canonical()))),
            Err(_) => Err(format!("{key}: found \"{}\", expected an IP address", shorten(text))),
        };
    }
    let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{key}: found \"{}\", expected a port, 0 to 65535", shorten(text)));
    }
    // `-0` is zero. Other negative numbers, and those that are too large, are not ports.
    let number = digits.trim_start_matches('0');
    let number = if number.is_empty() { Some(0) } else { number.parse::<u16>().ok() };
    Ok(number.filter(|number| *number == 0 || !trimmed.starts_with('-')).map(KeyValue::Port))
}

fn shorten(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_by_the_python_program() {
        let port = |text| read_value(Key::NatPort, text);
        assert_eq!(port("40001"), Ok(Some(KeyValue::Port(40001))));
        assert_eq!(port(" +040001 "), Ok(Some(KeyValue::Port(40001))));
        assert_eq!(port("-0"), Ok(Some(KeyValue::Port(0))));
        for outside in ["-1", "65536", "99999", "99999999999999999999999"] {
            assert_eq!(port(outside), Ok(None), "{outside}");
        }
        for invalid in ["", "abc", "-", "1.0", "0x10", "4 0", "--1"] {
            assert!(port(invalid).is_err(), "{invalid}");
        }
        let address = |text| read_value(Key::SrcIp, text);
        assert_eq!(address("::ffff:10.0.0.1"), Ok(Some(KeyValue::Ip("10.0.0.1".parse().unwrap()))));
        assert!(address("2001:db8::1").is_ok());
        assert!(address("300.1.1.1").is_err());
    }

    #[test]
    fn a_quoted_value_cannot_break_the_line_or_make_it_long() {
        let text =
            read_value(Key::NatPort, &format!("a\r\nSet-Cookie: x{}", "y".repeat(10_000))).unwrap_err();
        assert!(!text.contains(['\r', '\n']) && text.len() < 200, "{text}");
    }
}
