//! `/v1/mappings`: the table as newline-delimited JSON, streamed.

use std::sync::Arc;

use http_body_util::channel::{Channel, Sender};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::question::Asked;
use super::shape::{Match, write_line};
use super::{Failure, Response};
use crate::http::response::BodyError;
use crate::http::{App, response};
use crate::question::Question;
use crate::table::Cursor;

/// One JSON object a line.
pub(super) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// Pieces made before the client has taken them.
const PIECES_AHEAD: usize = 4;

pub(super) fn answer(app: Arc<App>, request: &Request<Incoming>) -> Result<Response, Failure> {
    let asked = Asked::from_query(request.uri().query())?;
    no_wait(&asked)?;
    if request.method() == Method::HEAD {
        return Ok(response::with_header(
            response::empty(StatusCode::OK),
            hyper::header::CONTENT_TYPE,
            "application/x-ndjson",
        ));
    }
    let (sender, body) = Channel::new(PIECES_AHEAD);
    let complete = if app.tracker.is_complete() { "1" } else { "0" };
    tokio::spawn(async move { send(&app, &asked.question, sender).await });
    let answer = response::stream(NDJSON, body);
    Ok(response::with_header(answer, HeaderName::from_static("x-nat-complete"), complete))
}

/// Streams have no answer that could wait.
pub(super) fn no_wait(asked: &Asked) -> Result<(), Failure> {
    match asked.wait {
        None => Ok(()),
        Some(_) => Err(Failure::bad("wait has no meaning here", "leave it out, or ask /v1/lookup")),
    }
}

/// One piece for each slice of the table; a client that stops reading stops
/// the walk, not the table.
async fn send(app: &App, question: &Question, mut sender: Sender<Bytes, BodyError>) {
    let mut next = Some(Cursor::START);
    while let Some(from) = next {
        let mut found = Vec::new();
        let slice = app.tracker.scan_slice(from, |mapping| {
            if question.matches(&mapping) {
                found.push(mapping);
            }
        });
        match slice.await {
            Ok(further) => next = further,
            Err(error) => {
                log::error!("{error}");
                // A body that breaks off is not taken for a whole one.
                return sender.abort(Box::new(error));
            }
        }
        let mut piece = Vec::with_capacity(found.len() * 512);
        found.iter().for_each(|mapping| write_line(&mut piece, &Match::from(mapping)));
        if !piece.is_empty() && sender.send_data(piece.into()).await.is_err() {
            return;
        }
    }
}
