//! `/v1/events`: mappings as they open and close, as server-sent events or as newline-delimited JSON.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::channel::{Channel, Sender};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderValue};
use hyper::{Method, Request};
use natnames::Who;

use super::error::Failure;
use super::host::Hosts;
use super::mapping::Match;
use super::request::LookupRequest;
use super::stream::{NDJSON, PIECES_AHEAD, head};
use crate::http::app::App;
use crate::http::json;
use crate::http::response::{self, BodyError, Response};
use crate::question::Question;
use crate::tracker::{ChangeBatch, ChangeEvent, ChangeListener, Received};

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

    fn write(self, out: &mut Vec<u8>, event: &StreamEvent<'_>, hosts: &Hosts) {
        let line = match (self, event) {
            (_, StreamEvent::Opened(mapping)) => return self.write_change(out, "opened", mapping, hosts),
            (_, StreamEvent::Closed(mapping)) => return self.write_change(out, "closed", mapping, hosts),
            (StreamFormat::Lines, StreamEvent::Lost { count, cause }) => {
                format!("{{\"event\":\"lost\",\"count\":{count},\"cause\":\"{}\"}}\n", cause.as_str())
            }
            (StreamFormat::ServerSent, StreamEvent::Lost { count, cause }) => {
                format!("event: lost\ndata: {{\"cause\":\"{}\",\"count\":{count}}}\n\n", cause.as_str())
            }
            (StreamFormat::Lines, StreamEvent::Alive) => "{\"event\":\"alive\"}\n".to_owned(),
            // A comment, which clients ignore.
            (StreamFormat::ServerSent, StreamEvent::Alive) => ":\n\n".to_owned(),
        };
        json::text(out, &line);
    }

    fn write_change(self, out: &mut Vec<u8>, name: &str, mapping: &Match<'_>, hosts: &Hosts) {
        let [before, after, end] = match self {
            StreamFormat::Lines => ["{\"event\":\"", "\",\"mapping\":", "}\n"],
            StreamFormat::ServerSent => ["event: ", "\ndata: ", "\n\n"],
        };
        [before, name, after].into_iter().for_each(|part| json::text(out, part));
        mapping.write(out, hosts);
        json::text(out, end);
    }
}

#[derive(Debug)]
enum StreamEvent<'a> {
    Opened(Match<'a>),
    Closed(Match<'a>),
    /// This many events are missing here.
    Lost {
        count: u64,
        cause: Cause,
    },
    /// The heartbeat: no event for a while.
    Alive,
}

/// Why events are missing.
#[derive(Debug, Clone, Copy)]
enum Cause {
    /// The client was too slow.
    Client,
    /// The kernel could not deliver its events to the daemon. A resync follows, whose changes the client gets.
    Kernel,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Cause::Client => "client",
            Cause::Kernel => "kernel",
        }
    }
}

/// Streams the changes from now on.
pub(in crate::http) fn answer(
    app: Arc<App>,
    request: &Request<Incoming>,
    hosts: Hosts,
) -> Result<Response, Failure> {
    let (question, who) = LookupRequest::question_only(request.uri().query())?;
    hosts.check(&who)?;
    let wanted = Wanted { question, who, hosts };
    let format = StreamFormat::of(request);
    if request.method() == Method::HEAD {
        return Ok(head(format.content_type()));
    }
    let (sender, body) = Channel::new(PIECES_AHEAD);
    // Listening starts before the response, so a client that has received its header misses no later
    // change.
    let listener = app.tracker.listen_for_changes();
    tokio::spawn(async move { send(&app, &wanted, format, listener, sender).await });
    let response = response::stream(format.content_type(), body);
    Ok(response::with_header(response, CACHE_CONTROL, "no-store"))
}

/// What a stream has.
#[derive(Default)]
struct Wanted {
    question: Question,
    /// Whose mappings are meant, if somebody's are.
    who: Vec<Who>,
    hosts: Hosts,
}

impl Wanted {
    fn is_everything(&self) -> bool {
        self.question == Question::default() && self.who.is_empty()
    }

    /// Losses concern every listener.
    fn has(&self, change: &ChangeEvent) -> bool {
        change.mapping().is_none_or(|mapping| self.question.matches(mapping))
    }
}

async fn send(
    app: &App,
    wanted: &Wanted,
    format: StreamFormat,
    mut listener: ChangeListener,
    mut sender: Sender<Bytes, BodyError>,
) {
    let mut stopping = app.stopping.clone();
    let wants_all = wanted.is_everything();
    loop {
        let mut piece = Vec::new();
        let received = tokio::select! {
            next = tokio::time::timeout(HEARTBEAT, listener.next()) => match next {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(_) => {
                    format.write(&mut piece, &StreamEvent::Alive, &wanted.hosts);
                    Received::default()
                }
            },
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        if received.lost > 0 {
            let lost = StreamEvent::Lost { count: received.lost, cause: Cause::Client };
            format.write(&mut piece, &lost, &wanted.hosts);
            if sender.send_data(std::mem::take(&mut piece).into()).await.is_err() {
                return;
            }
        }
        let piece = match received.whole_batch().filter(|_| wants_all) {
            Some(batch) => Bytes::from_owner(text_of(batch, received.changes(), format, wanted)),
            None => {
                write_changes(&mut piece, format, wanted, received.changes());
                piece.into()
            }
        };
        // The ring can forget the changes while the client is slow.
        drop(received);
        if !piece.is_empty() && sender.send_data(piece).await.is_err() {
            return;
        }
    }
}

/// The text of a whole batch, which all streams without conditions share.
fn text_of(batch: &ChangeBatch, changes: &[ChangeEvent], format: StreamFormat, wanted: &Wanted) -> Arc<[u8]> {
    let write = || {
        let mut text = Vec::with_capacity(512 * changes.len());
        write_changes(&mut text, format, wanted, changes);
        text.into()
    };
    // Streams that show names have other texts.
    batch.texts[format as usize + 2 * usize::from(wanted.hosts.are_hidden())].get_or_init(write).clone()
}

fn write_changes(piece: &mut Vec<u8>, format: StreamFormat, wanted: &Wanted, changes: &[ChangeEvent]) {
    let Wanted { question, who, hosts } = wanted;
    for change in changes.iter().filter(|change| wanted.has(change)) {
        let event = match change {
            ChangeEvent::Lost(count) => StreamEvent::Lost { count: *count, cause: Cause::Kernel },
            ChangeEvent::Opened(traced) => StreamEvent::Opened(Match::new(traced, question)),
            ChangeEvent::Closed(traced) => StreamEvent::Closed(Match::new(traced, question)),
        };
        let is_of = match &event {
            StreamEvent::Opened(found) | StreamEvent::Closed(found) => found.is_of(who, hosts),
            _ => true,
        };
        if is_of {
            format.write(piece, &event, hosts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_written_with_its_cause_in_both_formats() {
        let written = |format: StreamFormat, cause| {
            let mut out = Vec::new();
            format.write(&mut out, &StreamEvent::Lost { count: 812, cause }, &Hosts::default());
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(StreamFormat::Lines, Cause::Kernel),
            "{\"event\":\"lost\",\"count\":812,\"cause\":\"kernel\"}\n"
        );
        assert_eq!(
            written(StreamFormat::ServerSent, Cause::Client),
            "event: lost\ndata: {\"cause\":\"client\",\"count\":812}\n\n"
        );
    }

    #[test]
    fn losses_concern_every_listener() {
        let question = Question { nat_port: Some(1), ..Question::default() };
        assert!(Wanted { question, ..Wanted::default() }.has(&ChangeEvent::Lost(3)));
    }
}
