//! `/v1/mappings`: the table as newline-delimited JSON, streamed.

use std::sync::Arc;

use http_body_util::channel::{Channel, Sender};
use hyper::Method;
use hyper::body::Bytes;
use hyper::header::HeaderName;
use natnames::Who;

use super::error::Failure;
use super::host::Hosts;
use super::mapping::Match;
use super::request::LookupRequest;
use super::stream::{MAPPINGS_PER_SLICE, NDJSON, PIECES_AHEAD, head};
use crate::http::app::App;
use crate::http::response::{self, BodyError, PIECE, Response};
use crate::mapping::Mapping;
use crate::question::Question;
use crate::table::Cursor;

/// Most lines are a little shorter.
const LINE: usize = 384;

/// Streams the mappings that the request's fields select.
pub(in crate::http) async fn answer(
    app: &Arc<App>,
    method: &Method,
    query: Option<&str>,
    hosts: Hosts,
) -> Result<Response, Failure> {
    let (question, who) = LookupRequest::question_only(query)?;
    hosts.check(&who)?;
    if method == Method::HEAD {
        return Ok(head(NDJSON));
    }
    let (sender, body) = Channel::new(PIECES_AHEAD);
    let complete = if app.tracker.is_complete_now().await? { "1" } else { "0" };
    let app = app.clone();
    tokio::spawn(async move { send(&app, &question, &who, &hosts, sender).await });
    let response = response::stream(NDJSON, body);
    Ok(response::with_header(response, HeaderName::from_static("x-nat-complete"), complete))
}

/// Sends the mappings, some slices of the table in each piece. A client that stops reading stops only its own
/// stream.
async fn send(
    app: &App,
    question: &Question,
    who: &[Who],
    hosts: &Hosts,
    mut sender: Sender<Bytes, BodyError>,
) {
    let mut piece = Vec::new();
    let mut next = Some(Cursor::START);
    while let Some(from) = next {
        let wanted = |mapping: &Mapping| question.matches(mapping);
        let found = match app.tracker.scan_slice(from, MAPPINGS_PER_SLICE, wanted).await {
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
        piece.reserve(found.len() * LINE);
        for found in found.iter().map(|traced| Match::new(traced, question)) {
            if !found.is_of(who, hosts) {
                continue;
            }
            found.write(&mut piece, hosts);
            piece.push(b'\n');
        }
        // Where few mappings match, they are sent at once.
        let is_due = piece.len() >= 2 * PIECE || found.len() < MAPPINGS_PER_SLICE;
        if is_due && !piece.is_empty() && sender.send_data(std::mem::take(&mut piece).into()).await.is_err() {
            return;
        }
    }
    if !piece.is_empty() {
        // Fails if the client is gone.
        let _ = sender.send_data(piece.into()).await;
    }
}
