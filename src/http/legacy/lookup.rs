//! `/{key_name}/{value}` and `/{value}`: the best mapping with a value of the configured key.

use std::time::Duration;

use hyper::{StatusCode, Uri};

use super::error::lookup_failed;
use super::mapping::LegacyMapping;
use crate::config::Key;
use crate::http::app::App;
use crate::http::counters::LookupOutcome;
use crate::http::kind::Kind;
use crate::http::places::Client;
use crate::http::response::{self, Response};
use crate::http::route::{self, RouteLabel};
use crate::mapping::Protocol;
use crate::tuples::KeyValue;

/// How long a lookup that found nothing waits for the table to become complete.
pub(super) const TABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks up the last segment of the path. A segment before it must name the configured key.
pub(in crate::http) async fn answer(app: &App, key: Key, uri: &Uri, client: Client) -> Response {
    app.counters.requests.increment();
    let path = route::decode(uri.path());
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (name, value) = match path.split_once('/') {
        Some((name, value)) => (Some(name), value),
        None => (None, path),
    };
    if name.is_some_and(|name| name != key.as_str()) {
        count(app, LookupOutcome::Bad);
        return response::html(StatusCode::BAD_REQUEST, "Mismatch");
    }
    let bad = |text: &str| {
        count(app, LookupOutcome::Bad);
        response::line(StatusCode::BAD_REQUEST, text)
    };
    let protocol = match read_protocol(uri.query()) {
        Ok(protocol) => protocol,
        Err(text) => return bad(&text),
    };
    let value = match read_value(key, value) {
        Ok(value) => value,
        Err(text) => return bad(&text),
    };
    let Some(value) = value else { return not_found(app) };
    let mut waited = false;
    loop {
        match app.tracker.best(key, value, protocol).await {
            Err(error) => {
                count(app, LookupOutcome::Undecided);
                return lookup_failed(&error);
            }
            Ok(answer) => match answer.value {
                Some(traced) if traced.mapping.is_live() || answer.complete => {
                    count(app, LookupOutcome::Found);
                    return response::json(&LegacyMapping::from(&traced));
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
    }
}

fn count(app: &App, outcome: LookupOutcome) {
    app.counters.lookups.count(RouteLabel::Legacy, outcome);
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
