//! `/debug`: all mappings by the configured key.

use std::collections::BTreeMap;

use hyper::StatusCode;
use hyper::body::Bytes;

use super::error::tracker_failed;
use super::lookup::TABLE_TIMEOUT;
use super::mapping::LegacyMapping;
use crate::config::Key;
use crate::http::app::App;
use crate::http::response::{self, Response};
use crate::mapping::{Mapping, Protocol, Traced};
use crate::table::Cursor;
use crate::tuples::KeyValue;

/// Mappings in one piece of the body.
const MAPPINGS_PER_PIECE: usize = 256;

/// For each value of the key, the mapping that a lookup returns.
pub(in crate::http) async fn answer(app: &App, key: Key) -> Response {
    app.tracker.wait_complete(TABLE_TIMEOUT).await;
    let filter = app.tracker.filter();
    let mut best: BTreeMap<KeyValue, Mapping> = BTreeMap::new();
    let is_usual = |mapping: &Mapping| {
        matches!(mapping.original.protocol, Protocol::Tcp | Protocol::Udp) && filter.is_for_legacy(mapping)
    };
    let mut next = Some(Cursor::START);
    while let Some(from) = next {
        let found = match app.tracker.scan_slice(from, is_usual).await {
            Ok((found, further)) => {
                next = further;
                found
            }
            Err(error) => return tracker_failed(&error),
        };
        for Traced { mapping, .. } in found {
            let Some(value) = mapping.key(key) else { continue };
            let current = best.entry(value).or_insert(mapping);
            if mapping.rank() > current.rank() {
                *current = mapping;
            }
        }
    }
    if best.is_empty() {
        return response::json_text(StatusCode::OK, "{}");
    }
    let mut rest = best.into_iter().peekable();
    let mut separator = "{";
    let mut finished = false;
    let tracker = app.tracker.clone();
    let pieces = std::iter::from_fn(move || {
        if finished {
            return None;
        }
        let mut piece = Vec::new();
        let (values, mappings): (Vec<_>, Vec<_>) = rest.by_ref().take(MAPPINGS_PER_PIECE).unzip();
        for (value, traced) in values.into_iter().zip(tracker.trace_part(&mappings)) {
            let value = match value {
                KeyValue::Port(port) => port.to_string(),
                KeyValue::Ip(address) => address.to_string(),
            };
            piece.extend_from_slice(separator.as_bytes());
            piece.extend_from_slice(format!("\n    \"{value}\": ").as_bytes());
            piece.extend_from_slice(&response::to_json(&LegacyMapping::from(&traced), 1));
            separator = ",";
        }
        if rest.peek().is_none() {
            piece.extend_from_slice(b"\n}");
            finished = true;
        }
        Some(Bytes::from(piece))
    });
    response::json_stream(pieces)
}
