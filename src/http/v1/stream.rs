//! Newline-delimited JSON, and how far a stream may be ahead of its client.

use hyper::header::HeaderValue;
use serde::Serialize;

/// The media type: one JSON object per line.
pub(super) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Pieces of a body that may wait for the client.
pub(super) const PIECES_AHEAD: usize = 4;

/// Writes one line of newline-delimited JSON.
pub(super) fn write_line(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing plain data to memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, value);
    out.push(b'\n');
}
