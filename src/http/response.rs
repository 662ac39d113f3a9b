//! Builds responses.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either};
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use serde::Serialize;

/// A response. A short body is complete in memory; a long one is made while it is sent.
pub(super) type Response = hyper::Response<Either<Whole, UnsyncBoxBody<Bytes, BodyError>>>;

/// Why a body that is made while it is sent is aborted.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The size of a piece of a body in bytes, or a little more. hyper copies pieces into a buffer of its own until
/// it has 32 KiB, and keeps the buffer as long as the connection: so the size of the pieces bounds the memory of a
/// connection.
pub(super) const PIECE: usize = 16 * 1024;

/// The error when the tracker has failed; the process is about to exit.
pub(super) const TRACKER_FAILED: &str = "the daemon can no longer follow the kernel's connection tracking";

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

fn complete(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Either::Left(Whole { rest: body.into() }));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A fixed text as the Python program sent it.
pub(super) fn html(status: StatusCode, body: &'static str) -> Response {
    complete(status, HTML, body)
}

/// One line that explains an error. Plain text, because it may quote the request.
pub(super) fn line(status: StatusCode, line: &str) -> Response {
    complete(status, TEXT, format!("{line}\n"))
}

/// A response without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Either::Left(Whole { rest: Bytes::new() }));
    *response.status_mut() = status;
    response
}

/// JSON that is already written.
pub(super) fn json_text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    complete(status, JSON, body)
}

/// JSON as Python's `json.dumps(…, sort_keys=True, indent=4)` writes it, for values whose fields are in
/// alphabetical order.
pub(super) fn json(value: &impl Serialize) -> Response {
    let mut text = Vec::with_capacity(512);
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    // Writing plain data to memory cannot fail; an empty body would show it.
    if value.serialize(&mut serializer).is_err() {
        text.clear();
    }
    json_text(StatusCode::OK, text)
}

/// JSON that is already written, with the memory of a header that is no longer needed: hyper passes the header of a
/// response on to the next request, so the usual lookup allocates none.
pub(super) fn json_with_header(mut header: HeaderMap, body: impl Into<Bytes>) -> Response {
    header.clear();
    header.insert(CONTENT_TYPE, JSON);
    let mut response = Response::new(Either::Left(Whole { rest: body.into() }));
    *response.headers_mut() = header;
    response
}

/// Adds an `Allow` header.
pub(super) fn allowing(mut response: Response, methods: &'static str) -> Response {
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// Adds a header, unless a header cannot have this value.
pub(super) fn with_header(mut response: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// JSON that is made while it is sent.
pub(super) fn json_stream(body: impl Body<Data = Bytes, Error = BodyError> + Send + 'static) -> Response {
    stream(JSON, body)
}

/// A body of this type that is made while it is sent.
pub(super) fn stream(
    content_type: HeaderValue,
    body: impl Body<Data = Bytes, Error = BodyError> + Send + 'static,
) -> Response {
    let mut response = Response::new(Either::Right(UnsyncBoxBody::new(body)));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Tells the client of a 503 to try again.
pub(super) fn retried(mut response: Response) -> Response {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The last response on its connection.
pub(super) fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Keeps a value until the body of a stream has been sent, or its client is gone; of another response, until now.
pub(super) fn holding(response: Response, held: impl Send + Unpin + 'static) -> Response {
    response.map(|body| match body {
        Either::Left(whole) => Either::Left(whole),
        Either::Right(body) => Either::Right(Holding { body, _held: held }.boxed_unsync()),
    })
}

/// Whether the body is made while it is sent.
pub(super) fn is_stream(response: &Response) -> bool {
    matches!(response.body(), Either::Right(_))
}

/// A body that is complete in memory, sent in pieces.
pub(super) struct Whole {
    rest: Bytes,
}

impl Body for Whole {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// A body, and what is kept as long as it.
struct Holding<T> {
    body: UnsyncBoxBody<Bytes, BodyError>,
    _held: T,
}

impl<T: Unpin> Body for Holding<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
