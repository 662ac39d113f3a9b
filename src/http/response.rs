//! Making answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Full};
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Serialize;

/// An answer: short ones whole, long ones made as they are sent.
pub(super) type Response = hyper::Response<Either<Full<Bytes>, UnsyncBoxBody<Bytes, BodyError>>>;

/// Why a body that is made while the client reads breaks off.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

fn whole(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A fixed word as the Python program sent it.
pub(super) fn html(status: StatusCode, body: &'static str) -> Response {
    whole(status, HTML, body)
}

/// One line that says what is wrong. Plain text, since it may quote the request.
pub(super) fn line(status: StatusCode, line: &str) -> Response {
    whole(status, TEXT, format!("{line}\n"))
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = status;
    response
}

/// JSON that is written already.
pub(super) fn json_text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    whole(status, JSON, body)
}

/// JSON as Python's `json.dumps(…, sort_keys=True, indent=4)` writes it, for
/// values whose fields are in alphabetical order.
pub(super) fn json(value: &impl Serialize) -> Response {
    json_text(StatusCode::OK, to_json(value, 0))
}

/// JSON indented by four spaces a level, beginning at `level`.
pub(super) fn to_json(value: &impl Serialize, level: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    // Writing plain data to memory can't fail; an empty answer would show if it did.
    if value.serialize(&mut serializer).is_err() {
        text.clear();
    }
    if level == 0 {
        return text;
    }
    let indent = "    ".repeat(level);
    let mut indented = Vec::with_capacity(text.len() * 2);
    for byte in text {
        indented.push(byte);
        if byte == b'\n' {
            indented.extend_from_slice(indent.as_bytes());
        }
    }
    indented
}

/// Adds the methods that a resource knows.
pub(super) fn allowing(mut response: Response, methods: &'static str) -> Response {
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// Adds a header; a value that no header can have is left out.
pub(super) fn with_header(mut response: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// JSON made piece by piece while the client reads.
pub(super) fn json_stream(pieces: impl Iterator<Item = Bytes> + Unpin + Send + 'static) -> Response {
    stream(JSON, Pieces { pieces })
}

/// A body that goes on while the client reads, of this type.
pub(super) fn stream(
    content_type: HeaderValue,
    body: impl Body<Data = Bytes, Error = BodyError> + Send + 'static,
) -> Response {
    let mut response = Response::new(Either::Right(UnsyncBoxBody::new(body)));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A body whose pieces are at hand one after the other.
struct Pieces<I> {
    pieces: I,
}

impl<I: Iterator<Item = Bytes> + Unpin> Body for Pieces<I> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.pieces.next().map(|piece| Ok(Frame::data(piece))))
    }
}
