//! `/v1/events`: mappings as they open and close, as server-sent events or as newline-delimited JSON.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::channel::{Channel, Sender};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderValue};
use hyper::{Method, Request};
use serde::Serialize;

use super::error::Failure;
use super::mapping::Match;
use super::request::LookupRequest;
use super::stream::{NDJSON, PIECES_AHEAD, head, write_line};
use crate::http::app::App;
use crate::http::response::{self, BodyError, Response};
use crate::question::Question;
use crate::table::Change;
use crate::tracker::ChangeListener;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// After this time without a change, a stream sends a heartbeat, so that each side notices if the other
/// one is gone.
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
        match (self, event) {
            (StreamFormat::Lines, event) => write_line(out, event),
            (StreamFormat::ServerSent, StreamEvent::Opened { mapping }) => {
                write_server_sent(out, "opened", mapping)
            }
            (StreamFormat::ServerSent, StreamEvent::Closed { mapping }) => {
                write_server_sent(out, "closed", mapping)
            }
            (StreamFormat::ServerSent, StreamEvent::Lost { count }) => {
                write_server_sent(out, "lost", &serde_json::json!({ "count": count }));
            }
            // A comment, which clients ignore.
            (StreamFormat::ServerSent, StreamEvent::Alive) => out.extend_from_slice(b":\n\n"),
        }
    }
}

fn write_server_sent(out: &mut Vec<u8>, name: &str, data: &impl Serialize) {
    out.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
    write_line(out, data);
    out.push(b'\n');
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
    /// The heartbeat: no event for a while.
    Alive,
}

/// Streams the changes from now on.
pub(in crate::http) fn answer(app: Arc<App>, request: &Request<Incoming>) -> Result<Response, Failure> {
    let question = LookupRequest::without_wait(request.uri().query())?;
    let format = StreamFormat::of(request);
    if request.method() == Method::HEAD {
        return Ok(head(format.content_type()));
    }
    let (sender, body) = Channel::new(PIECES_AHEAD);
    // Listening starts before the response, so a client that has received its header misses no later
    // change.
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
    let event = match change {
        Change::Lost(count) => StreamEvent::Lost { count: *count },
        Change::Opened(mapping) | Change::Closed(mapping) if !question.matches(mapping) => return,
        Change::Opened(mapping) => StreamEvent::Opened { mapping: Match::from(mapping) },
        Change::Closed(mapping) => StreamEvent::Closed { mapping: Match::from(mapping) },
    };
    format.write(piece, &event);
}
