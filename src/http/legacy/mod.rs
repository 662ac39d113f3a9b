//! The routes of the Python program, byte for byte: `/{key_name}/{value}`,
//! `/debug` and `/nagios`; and `/{value}`, which its README shows.
//!
//! What differs is wanted and listed in doc/OPERATIONS.md: a value that makes no
//! sense gets 400 and a line that says so, HEAD works, and a look-up that can't
//! be decided because the table is not whole says 503.

mod debug;
mod nagios;
mod shown;

use std::time::Duration;

use hyper::body::Body;
use hyper::header::RETRY_AFTER;
use hyper::{Method, Request, StatusCode};
use nfct::Protocol;
use percent_encoding::percent_decode_str;

use super::App;
use super::response::{self, Response};
use crate::config::Key;
use crate::mapping::KeyValue;
use crate::stats::{self, Outcome};
use shown::Shown;

/// How long a look-up that found nothing waits for the table to be whole.
const PATIENCE: Duration = Duration::from_secs(5);

enum Route {
    LookUp { key: Option<String>, value: String },
    Debug,
    Nagios,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        let path = percent_decode_str(path).decode_utf8_lossy();
        let mut parts = path.strip_prefix('/')?.split('/');
        match (parts.next()?, parts.next(), parts.next()) {
            ("", ..) | (_, Some(""), _) | (.., Some(_)) => None,
            ("debug", None, None) => Some(Route::Debug),
            ("nagios", None, None) => Some(Route::Nagios),
            (value, None, None) => Some(Route::LookUp { key: None, value: value.to_owned() }),
            (key, Some(value), None) => {
                Some(Route::LookUp { key: Some(key.to_owned()), value: value.to_owned() })
            }
        }
    }
}

pub(super) async fn answer<B: Body>(app: &App, key: Key, request: &Request<B>) -> Response {
    let Some(route) = Route::of(request.uri().path()) else {
        return response::json_text(StatusCode::NOT_FOUND, r#"{"title": "404 Not Found"}"#);
    };
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return response::allowing(response::json_text(StatusCode::OK, ""), "GET"),
        _ => {
            let refusal = r#"{"title": "405 Method Not Allowed"}"#;
            let refusal = response::json_text(StatusCode::METHOD_NOT_ALLOWED, refusal);
            return response::allowing(refusal, "GET, OPTIONS");
        }
    }
    if !request.body().is_end_stream() {
        return response::line(StatusCode::PAYLOAD_TOO_LARGE, "a request here has no body");
    }
    match route {
        Route::LookUp { key: asked, value } => {
            if asked.is_some_and(|asked| asked != key.as_str()) {
                app.stats.requests.increment();
                app.stats.lookups.count(stats::Route::Legacy, Outcome::Bad);
                return response::html(StatusCode::BAD_REQUEST, "Mismatch");
            }
            look_up(app, key, &value, request.uri().query()).await
        }
        Route::Debug => debug::answer(app, key).await,
        Route::Nagios => nagios::answer(app).await,
    }
}

async fn look_up(app: &App, key: Key, value: &str, query: Option<&str>) -> Response {
    app.stats.requests.increment();
    let bad = |text: &str| {
        app.stats.lookups.count(stats::Route::Legacy, Outcome::Bad);
        response::line(StatusCode::BAD_REQUEST, text)
    };
    let protocol = match read_protocol(query) {
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
                app.stats.lookups.count(stats::Route::Legacy, Outcome::Undecided);
                return broken(&error);
            }
            Ok(answer) => match answer.value {
                Some(mapping) => {
                    app.stats.lookups.count(stats::Route::Legacy, Outcome::Found);
                    return response::json(&Shown::new(&mapping));
                }
                None if answer.complete => return not_found(app),
                None if !waited => {
                    app.tracker.wait_complete(PATIENCE).await;
                    waited = true;
                }
                None => {
                    app.stats.lookups.count(stats::Route::Legacy, Outcome::Undecided);
                    let text = "not known yet: the kernel's table is still being read";
                    let unknown = response::line(StatusCode::SERVICE_UNAVAILABLE, text);
                    return response::with_header(unknown, RETRY_AFTER, "1");
                }
            },
        }
    }
}

/// The kernel can't be followed any more, and the process is about to end.
fn broken(error: &nfct::Error) -> Response {
    log::error!("{error}");
    response::line(StatusCode::INTERNAL_SERVER_ERROR, "the kernel can't be followed any more")
}

fn not_found(app: &App) -> Response {
    app.stats.lookups.count(stats::Route::Legacy, Outcome::NotFound);
    response::html(StatusCode::NOT_FOUND, "Not found")
}

/// `?protocol=tcp|udp`; other parameters are of no concern here.
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

/// The value of a port or an address key; `None` for a number that no port has.
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
    // Zero has no sign; all else below it, and what is too large, is no port.
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
    fn values_are_read_as_the_python_program_did() {
        let port = |text| read_value(Key::NatPort, text);
        assert_eq!(port("40001"), Ok(Some(KeyValue::Port(40001))));
        assert_eq!(port(" +040001 "), Ok(Some(KeyValue::Port(40001))));
        assert_eq!(port("-0"), Ok(Some(KeyValue::Port(0))));
        for outside in ["-1", "65536", "99999", "99999999999999999999999"] {
            assert_eq!(port(outside), Ok(None), "{outside}");
        }
        for nonsense in ["", "abc", "-", "1.0", "0x10", "4 0", "--1"] {
            assert!(port(nonsense).is_err(), "{nonsense}");
        }
        let address = |text| read_value(Key::SrcIp, text);
        assert_eq!(address("::ffff:10.0.0.1"), Ok(Some(KeyValue::Ip("10.0.0.1".parse().unwrap()))));
        assert!(address("2001:db8::1").is_ok());
        assert!(address("300.1.1.1").is_err());
    }

    #[test]
    fn a_quoted_value_can_neither_break_the_line_nor_grow_long() {
        let text =
            read_value(Key::NatPort, &format!("a\r\nSet-Cookie: x{}", "y".repeat(10_000))).unwrap_err();
        assert!(!text.contains(['\r', '\n']) && text.len() < 200, "{text}");
    }
}
