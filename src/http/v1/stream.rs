//! What the streams share: newline-delimited JSON, the response to HEAD, and how far a stream may be ahead of
//! its client.

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use crate::http::response::{self, Response};

/// The media type: one JSON object per line.
pub(super) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// The maximum number of pieces of a body that wait for the client.
pub(super) const PIECES_AHEAD: usize = 1;

/// Mappings in one piece of a body: about 16 KiB of text.
pub(super) const MAPPINGS_PER_PIECE: usize = 32;

/// Mappings that are read under one hold of the lock, and verified with one message to the kernel.
pub(super) const MAPPINGS_PER_SLICE: usize = 64;

/// The response to HEAD: the header of the stream, without its body.
pub(super) fn head(content_type: HeaderValue) -> Response {
    let mut response = response::empty(StatusCode::OK);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
