//! `/debug`: the whole table.

use std::collections::BTreeMap;

use hyper::StatusCode;
use hyper::body::Bytes;
use nfct::Protocol;

use super::shown::Shown;
use super::{PATIENCE, broken};
use crate::config::Key;
use crate::http::App;
use crate::http::response::{self, Response};
use crate::mapping::{KeyValue, Mapping};

/// Mappings that are written at once.
const MAPPINGS_A_PIECE: usize = 256;

/// For each value of the key the answer that a look-up gets.
pub(super) async fn answer(app: &App, key: Key) -> Response {
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
        return broken(&error);
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
