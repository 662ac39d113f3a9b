//! `/v1/events`: mappings as they open and close, as server-sent events or as newline-delimited JSON.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::channel::{Channel, Sender};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::error::Failure;
use super::mapping::Match;
use super::request::LookupRequest;
use super::stream::{NDJSON, PIECES_AHEAD, write_line};
use crate::http::app::App;
use crate::http::response::{self, BodyError, Response};
use crate::question::Question;
use crate::table::Change;
use crate::tracker::ChangeListener;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// A quiet stream sends something in this time, so that both sides notice when the other is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamFormat {
    /// `event:` and `data:` lines.
    ServerSent,
    /// One JSON object per line.
    Lines,
}

impl StreamFormat {
    fn of(request: &Request<Incoming>) -> Self {
        let accept =
            request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        if accept.contains("text/event-stream") { StreamFormat::ServerSent } else { StreamFormat::Lines }
    }

    fn content_type(self) -> HeaderValue {
        match self {
            StreamFormat::ServerSent => EVENT_STREAM,
            StreamFormat::Lines => NDJSON,
        }
    }

    fn write(self, out: &mut Vec<u8>, event: &StreamEvent) {
        match self {
            StreamFormat::Lines => write_line(out, event),
            StreamFormat::ServerSent => {
                let (name, data) = match event {
                    StreamEvent::Opened { mapping } => ("opened", serde_json::to_string(mapping)),
                    StreamEvent::Closed { mapping } => ("closed", serde_json::to_string(mapping)),
                    StreamEvent::Lost { .. } | StreamEvent::Alive => ("", serde_json::to_string(event)),
                };
                let data = data.unwrap_or_default();
                let text = match event {
                    // A comment, which clients ignore.
                    StreamEvent::Alive => ":\n\n".to_owned(),
                    StreamEvent::Lost { count } => format!("event: lost\ndata: {{\"count\":{count}}}\n\n"),
                    StreamEvent::Opened { .. } | StreamEvent::Closed { .. } => {
                        format!("event: {name}\ndata: {data}\n\n")
                    }
                };
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum StreamEvent {
    Opened {
        mapping: Match,
    },
    Closed {
        mapping: Match,
    },
    /// The client was too slow, and this many events were lost.
    Lost {
        count: u64,
    },
    /// No event for a while.
    Alive,
}

/// Streams the changes from now on.
pub(in crate::http) fn answer(app: Arc<App>, request: &Request<Incoming>) -> Result<Response, Failure> {
    let question = LookupRequest::without_wait(request.uri().query())?;
    let format = StreamFormat::of(request);
    let (sender, body) = Channel::new(PIECES_AHEAD);
    if request.method() == Method::HEAD {
        let mut response = response::empty(StatusCode::OK);
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, format.content_type());
        return Ok(response);
    }
    // Before the response: a client that has its header misses nothing that follows.
    let listener = app.tracker.listen_for_changes();
    tokio::spawn(async move { send(&app, &question, format, listener, sender).await });
    let response = response::stream(format.content_type(), body);
    Ok(response::with_header(response, CACHE_CONTROL, "no-store"))
}

async fn send(
    app: &App,
    question: &Question,
    format: StreamFormat,
    mut listener: ChangeListener,
    mut sender: Sender<Bytes, BodyError>,
) {
    let mut stopping = app.stopping.clone();
    loop {
        let mut piece = Vec::new();
        tokio::select! {
            next = tokio::time::timeout(HEARTBEAT, listener.next()) => match next {
                Ok(Some((lost, changes))) => {
                    if lost > 0 {
                        format.write(&mut piece, &StreamEvent::Lost { count: lost });
                    }
                    for change in changes {
                        write_change(&mut piece, format, question, &change);
                    }
                }
                Ok(None) => return,
                Err(_) => format.write(&mut piece, &StreamEvent::Alive),
            },
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        if !piece.is_empty() && sender.send_data(piece.into()).await.is_err() {
            return;
        }
    }
}

fn write_change(piece: &mut Vec<u8>, format: StreamFormat, question: &Question, change: &Change) {
    let (Change::Opened(mapping) | Change::Closed(mapping)) = change;
    if question.matches(mapping) {
        let found = Match::from(mapping);
        let event = match change {
            Change::Opened(_) => StreamEvent::Opened { mapping: found },
            Change::Closed(_) => StreamEvent::Closed { mapping: found },
        };
        format.write(piece, &event);
    }
}
