//! `/v1/events`: mappings as they open and close, as server-sent events or as
//! newline-delimited JSON.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::channel::{Channel, Sender};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::mappings::{NDJSON, no_wait};
use super::question::Asked;
use super::shape::{Match, write_line};
use super::{Failure, Response};
use crate::http::response::BodyError;
use crate::http::{App, response};
use crate::question::Question;
use crate::table::Change;
use crate::tracker::Listener;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// Pieces made before the client has taken them.
const PIECES_AHEAD: usize = 4;
/// A quiet stream shows that it lives, so that neither side waits for a peer
/// that is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `event:` and `data:` lines.
    ServerSent,
    /// One JSON object a line.
    Lines,
}

impl Form {
    fn of(request: &Request<Incoming>) -> Self {
        let accept =
            request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        if accept.contains("text/event-stream") { Form::ServerSent } else { Form::Lines }
    }

    fn content_type(self) -> HeaderValue {
        match self {
            Form::ServerSent => EVENT_STREAM,
            Form::Lines => NDJSON,
        }
    }

    fn write(self, out: &mut Vec<u8>, event: &Event) {
        match self {
            Form::Lines => write_line(out, event),
            Form::ServerSent => {
                let (name, data) = match event {
                    Event::Opened { mapping } => ("opened", serde_json::to_string(mapping)),
                    Event::Closed { mapping } => ("closed", serde_json::to_string(mapping)),
                    Event::Lost { .. } | Event::Alive => ("", serde_json::to_string(event)),
                };
                let data = data.unwrap_or_default();
                let text = match event {
                    // A comment, which readers skip.
                    Event::Alive => ":\n\n".to_owned(),
                    Event::Lost { count } => format!("event: lost\ndata: {{\"count\":{count}}}\n\n"),
                    Event::Opened { .. } | Event::Closed { .. } => format!("event: {name}\ndata: {data}\n\n"),
                };
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Opened {
        mapping: Match,
    },
    Closed {
        mapping: Match,
    },
    /// The reader was too slow for so many events.
    Lost {
        count: u64,
    },
    /// Nothing happened for a while.
    Alive,
}

pub(super) fn answer(app: Arc<App>, request: &Request<Incoming>) -> Result<Response, Failure> {
    let asked = Asked::from_query(request.uri().query())?;
    no_wait(&asked)?;
    let form = Form::of(request);
    let (sender, body) = Channel::new(PIECES_AHEAD);
    if request.method() == Method::HEAD {
        let mut response = response::empty(StatusCode::OK);
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, form.content_type());
        return Ok(response);
    }
    // From this moment on: whoever has the answer's header misses nothing after it.
    let listener = app.tracker.listen();
    tokio::spawn(async move { send(&app, &asked.question, form, listener, sender).await });
    let response = response::stream(form.content_type(), body);
    Ok(response::with_header(response, CACHE_CONTROL, "no-store"))
}

async fn send(
    app: &App,
    question: &Question,
    form: Form,
    mut listener: Listener,
    mut sender: Sender<Bytes, BodyError>,
) {
    let mut stopping = app.stopping.clone();
    loop {
        let mut piece = Vec::new();
        tokio::select! {
            next = tokio::time::timeout(HEARTBEAT, listener.next()) => match next {
                Ok(Some((lost, changes))) => {
                    if lost > 0 {
                        form.write(&mut piece, &Event::Lost { count: lost });
                    }
                    for change in changes {
                        write_change(&mut piece, form, question, &change);
                    }
                }
                Ok(None) => return,
                Err(_) => form.write(&mut piece, &Event::Alive),
            },
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        if !piece.is_empty() && sender.send_data(piece.into()).await.is_err() {
            return;
        }
    }
}

fn write_change(piece: &mut Vec<u8>, form: Form, question: &Question, change: &Change) {
    let (Change::Opened(mapping) | Change::Closed(mapping)) = change;
    if question.matches(mapping) {
        let shown = Match::from(mapping);
        let event = match change {
            Change::Opened(_) => Event::Opened { mapping: shown },
            Change::Closed(_) => Event::Closed { mapping: shown },
        };
        form.write(piece, &event);
    }
}
