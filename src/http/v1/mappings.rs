//! `/v1/mappings`: the table as newline-delimited JSON, streamed.

use std::sync::Arc;

use http_body_util::channel::{Channel, Sender};
use hyper::Method;
use hyper::body::Bytes;
use hyper::header::HeaderName;

use super::error::Failure;
use super::mapping::Match;
use super::request::LookupRequest;
use super::stream::{MAPPINGS_PER_PIECE, NDJSON, PIECES_AHEAD, head, write_line};
use crate::http::app::App;
use crate::http::response::{self, BodyError, Response};
use crate::question::Question;
use crate::table::Cursor;

/// Streams the mappings that the request's fields select.
pub(in crate::http) async fn answer(
    app: &Arc<App>,
    method: &Method,
    query: Option<&str>,
) -> Result<Response, Failure> {
    let question = LookupRequest::question_only(query)?;
    if method == Method::HEAD {
        return Ok(head(NDJSON));
    }
    let (sender, body) = Channel::new(PIECES_AHEAD);
    let complete = if app.tracker.is_complete_now().await? { "1" } else { "0" };
    let app = app.clone();
    tokio::spawn(async move { send(&app, &question, sender).await });
    let response = response::stream(NDJSON, body);
    Ok(response::with_header(response, HeaderName::from_static("x-nat-complete"), complete))
}

/// Sends one piece for a few mappings. A client that stops reading stops only its own stream.
async fn send(app: &App, question: &Question, mut sender: Sender<Bytes, BodyError>) {
    let mut next = Some(Cursor::START);
    while let Some(from) = next {
        let slice =
            app.tracker.scan_slice(from, MAPPINGS_PER_PIECE, |mapping| question.matches(mapping)).await;
        let found = match slice {
            Ok((found, further)) => {
                next = further;
                found
            }
            Err(error) => {
                log::error!("{error}");
                // Aborting shows the client that the body is incomplete.
                return sender.abort(Box::new(error));
            }
        };
        let mut piece = Vec::with_capacity(found.len() * 512);
        found.iter().for_each(|traced| write_line(&mut piece, &Match::new(traced, question)));
        if !piece.is_empty() && sender.send_data(piece.into()).await.is_err() {
            return;
        }
    }
}
