//! `/debug`: all mappings by the configured key.
//!
//! The response is sorted by value, and its memory is bounded. So the table is read several times: each pass
//! collects the next values in order, and the next pass begins when they are sent. A small table needs one pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http_body_util::channel::{Channel, Sender};
use hyper::StatusCode;
use hyper::body::Bytes;

use super::error::tracker_failed;
use super::lookup::TABLE_TIMEOUT;
use super::mapping;
use crate::config::Key;
use crate::filter::Filter;
use crate::http::app::App;
use crate::http::response::{self, BodyError, Response};
use crate::mapping::{Mapping, Protocol, Traced};
use crate::table::Cursor;
use crate::tracker::Error;
use crate::tuples::KeyValue;

/// Values that one pass collects. Each needs about 250 bytes until it is sent.
const VALUES_PER_PASS: usize = 8192;
/// Mappings in one piece of the body: about 16 KiB of text.
const MAPPINGS_PER_PIECE: usize = 48;

/// For each value of the key, the mapping that a lookup returns.
pub(in crate::http) async fn answer(app: &Arc<App>, key: Key) -> Response {
    app.tracker.wait_complete(TABLE_TIMEOUT).await;
    let mut passes = Passes { app: app.clone(), key, filter: app.tracker.filter(), last: None };
    let first = match passes.next().await {
        Ok(values) => values,
        Err(error) => return tracker_failed(&error),
    };
    if first.is_empty() {
        return response::json_text(StatusCode::OK, "{}");
    }
    let (sender, body) = Channel::new(1);
    tokio::spawn(passes.send(first, sender));
    response::json_stream(body)
}

type Values = BTreeMap<KeyValue, Mapping>;

/// Reads the values of the key in order, some in each pass.
struct Passes {
    app: Arc<App>,
    key: Key,
    filter: Arc<Filter>,
    /// The greatest value of the passes so far.
    last: Option<KeyValue>,
}

impl Passes {
    /// The next values, each with its best mapping; fewer than [`VALUES_PER_PASS`] only at the end.
    async fn next(&mut self) -> Result<Values, Error> {
        let mut best = Values::new();
        let mut next = Some(Cursor::START);
        while let Some(from) = next {
            let is_wanted = |mapping: &Mapping| {
                let is_usual = matches!(mapping.original.protocol, Protocol::Tcp | Protocol::Udp);
                let is_next = |value: KeyValue| {
                    self.last.is_none_or(|last| value > last)
                        && (best.len() < VALUES_PER_PASS
                            || best.last_key_value().is_none_or(|(greatest, _)| value <= *greatest))
                };
                is_usual && mapping.key(self.key).is_some_and(is_next) && self.filter.is_for_legacy(mapping)
            };
            let (found, further) = self.app.tracker.scan_slice(from, usize::MAX, is_wanted).await?;
            next = further;
            for Traced { mapping, .. } in found {
                let Some(value) = mapping.key(self.key) else { continue };
                let current = best.entry(value).or_insert(mapping);
                if mapping.rank() > current.rank() {
                    *current = mapping;
                }
                if best.len() > VALUES_PER_PASS {
                    best.pop_last();
                }
            }
        }
        self.last = best.last_key_value().map(|(greatest, _)| *greatest);
        Ok(best)
    }

    /// Sends the values of the first pass, and all others.
    async fn send(mut self, mut values: Values, mut sender: Sender<Bytes, BodyError>) {
        let mut separator = "{";
        loop {
            let is_last = values.len() < VALUES_PER_PASS;
            let mut rest = values.into_iter();
            while rest.len() > 0 {
                let (values, mappings): (Vec<_>, Vec<_>) = rest.by_ref().take(MAPPINGS_PER_PIECE).unzip();
                let now = Instant::now();
                let mut piece = Vec::with_capacity(MAPPINGS_PER_PIECE * 400);
                for (value, traced) in values.into_iter().zip(self.app.tracker.trace(&mappings).await) {
                    let value = match value {
                        KeyValue::Port(port) => port.to_string(),
                        KeyValue::Ip(address) => address.to_string(),
                    };
                    piece.extend_from_slice(separator.as_bytes());
                    piece.extend_from_slice(format!("\n    \"{value}\": ").as_bytes());
                    for line in mapping::to_json(&traced, now).split_inclusive(|byte| *byte == b'\n') {
                        piece.extend_from_slice(line);
                        if line.ends_with(b"\n") {
                            piece.extend_from_slice(b"    ");
                        }
                    }
                    separator = ",";
                }
                if is_last && rest.len() == 0 {
                    piece.extend_from_slice(b"\n}");
                }
                if sender.send_data(piece.into()).await.is_err() || is_last && rest.len() == 0 {
                    return;
                }
            }
            values = match self.next().await {
                Ok(values) if values.is_empty() => {
                    let _ = sender.send_data(Bytes::from_static(b"\n}")).await;
                    return;
                }
                Ok(values) => values,
                Err(error) => {
                    log::error!("{error}");
                    // Aborting shows the client that the body is incomplete.
                    return sender.abort(Box::new(error));
                }
            };
        }
    }
}
