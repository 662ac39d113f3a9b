//! The routes of the Python program, byte for byte: `/{key_name}/{value}`,
//! `/debug` and `/nagios`; and `/{value}`, which its README shows.
//!
//! What differs is wanted and listed in the README: a value that makes no
//! sense gets 400 and a line that says so, HEAD works, and a look-up that can't
//! be decided because the table is not whole says 503.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::body::{Body, Bytes};
use hyper::header::RETRY_AFTER;
use hyper::{Method, Request, StatusCode};
use nfct::Protocol;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::App;
use super::response::{self, Response};
use crate::config::Key;
use crate::mapping::{KeyValue, Mapping};

/// How long a look-up that found nothing waits for the table to be whole.
const PATIENCE: Duration = Duration::from_secs(5);
/// Mappings of `/debug` that are written at once.
const MAPPINGS_A_PIECE: usize = 256;

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
                app.stats.bad.increment();
                return response::html(StatusCode::BAD_REQUEST, "Mismatch");
            }
            look_up(app, key, &value, request.uri().query()).await
        }
        Route::Debug => debug(app, key).await,
        Route::Nagios => nagios(app).await,
    }
}

async fn look_up(app: &App, key: Key, value: &str, query: Option<&str>) -> Response {
    app.stats.requests.increment();
    let bad = |text: &str| {
        app.stats.bad.increment();
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
                log::error!("{error}");
                return response::line(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the kernel can't be followed any more",
                );
            }
            Ok(answer) => match answer.value {
                Some(mapping) => {
                    app.stats.found.increment();
                    return response::json(&Shown::new(&mapping));
                }
                None if answer.complete => return not_found(app),
                None if !waited => {
                    app.tracker.wait_complete(PATIENCE).await;
                    waited = true;
                }
                None => {
                    app.stats.not_found.increment();
                    let text = "not known yet: the kernel's table is still being read";
                    let unknown = response::line(StatusCode::SERVICE_UNAVAILABLE, text);
                    return response::with_header(unknown, RETRY_AFTER, "1");
                }
            },
        }
    }
}

fn not_found(app: &App) -> Response {
    app.stats.not_found.increment();
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

/// A mapping as the Python program shows it, fields in alphabetical order.
#[derive(Serialize)]
struct Shown {
    dst_ip: std::net::IpAddr,
    dst_port: Option<u16>,
    nat_ip: std::net::IpAddr,
    nat_port: Option<u16>,
    protocol: [&'static str; 2],
    sig_type: &'static str,
    src_ip: std::net::IpAddr,
    src_port: Option<u16>,
    time: String,
}

impl Shown {
    fn new(mapping: &Mapping) -> Self {
        let layer3 = if mapping.src_ip().is_ipv4() { "ipv4" } else { "ipv6" };
        Shown {
            dst_ip: mapping.dst_ip(),
            dst_port: mapping.dst_port(),
            nat_ip: mapping.nat_ip(),
            nat_port: mapping.nat_port(),
            protocol: [layer3, mapping.original.protocol.name().unwrap_or("unknown")],
            sig_type: "new",
            src_ip: mapping.src_ip(),
            src_port: mapping.src_port(),
            time: local_time(mapping.opened.wall),
        }
    }
}

/// `2026-11-21 07:34:27` in the system's time zone.
fn local_time(milliseconds: u64) -> String {
    let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The whole table: for each value of the key the answer that a look-up gets.
async fn debug(app: &App, key: Key) -> Response {
    app.tracker.wait_complete(PATIENCE).await;
    let mut best: BTreeMap<KeyValue, Mapping> = BTreeMap::new();
    let collected = app
        .tracker
        .scan(|mapping| {
            if !matches!(mapping.original.protocol, Protocol::Tcp | Protocol::Udp) {
                return;
            }
            let Some(value) = mapping.key(key) else { return };
            let shown = best.entry(value).or_insert(mapping);
            if mapping.rank() > shown.rank() {
                *shown = mapping;
            }
        })
        .await;
    if let Err(error) = collected {
        log::error!("{error}");
        return response::line(StatusCode::INTERNAL_SERVER_ERROR, "the kernel can't be followed any more");
    }
    if best.is_empty() {
        return response::json_text(StatusCode::OK, "{}");
    }
    let mut rest = best.into_iter().peekable();
    let mut opening = "{";
    let mut finished = false;
    let pieces = std::iter::from_fn(move || {
        if finished {
            return None;
        }
        let mut piece = Vec::new();
        for (value, mapping) in rest.by_ref().take(MAPPINGS_A_PIECE) {
            let value = match value {
                KeyValue::Port(port) => port.to_string(),
                KeyValue::Ip(address) => address.to_string(),
            };
            piece.extend_from_slice(opening.as_bytes());
            piece.extend_from_slice(format!("\n    \"{value}\": ").as_bytes());
            piece.extend_from_slice(&response::to_json(&Shown::new(&mapping), 1));
            opening = ",";
        }
        if rest.peek().is_none() {
            piece.extend_from_slice(b"\n}");
            finished = true;
        }
        Some(Bytes::from(piece))
    });
    response::json_stream(pieces)
}

#[derive(Serialize)]
struct Nagios {
    expired_data: u64,
    http_stat: HttpStat,
    number_of_created_items: u64,
    number_of_deleted_items: u64,
    prgm_start_time: f64,
    queue_size: u64,
    shared_data_size: usize,
    threads_stat: BTreeMap<&'static str, ThreadStat>,
}

#[derive(Serialize)]
struct HttpStat {
    bad_requests: u64,
    no_of_requests: u64,
    successful_replies: u64,
    unauthorized_requests: u64,
    unsuccessful_replies: u64,
}

#[derive(Serialize)]
struct ThreadStat {
    alive_time: f64,
    is_alive: bool,
}

/// The Python program's counters. Its queue is the kernel's here, and empty:
/// it is drained before the answer is made. A part that dies ends the whole
/// process, so whoever reads this reads that all are alive.
async fn nagios(app: &App) -> Response {
    let size = match app.tracker.ask(|table, _| table.live() + table.closed()).await {
        Ok(answer) => answer.value,
        Err(error) => {
            log::error!("{error}");
            return response::line(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the kernel can't be followed any more",
            );
        }
    };
    let stats = &app.stats;
    let alive_time = app.clock.now().since(app.started).as_secs_f64();
    let parts = ["GarbageCollector", "HTTPServer", "NetFilter", "QueueWorker"];
    response::json(&Nagios {
        expired_data: stats.expired.get(),
        http_stat: HttpStat {
            bad_requests: stats.bad.get(),
            no_of_requests: stats.requests.get(),
            successful_replies: stats.found.get(),
            unauthorized_requests: stats.unauthorized.get(),
            unsuccessful_replies: stats.not_found.get(),
        },
        number_of_created_items: stats.created.get(),
        number_of_deleted_items: stats.deleted.get(),
        prgm_start_time: app.started.wall as f64 / 1000.0,
        queue_size: 0,
        shared_data_size: size,
        threads_stat: parts
            .into_iter()
            .map(|part| (part, ThreadStat { alive_time, is_alive: true }))
            .collect(),
    })
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
