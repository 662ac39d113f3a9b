//! The answers to lookups as JSON. Short ones are complete before they are sent. Others are written while they are
//! sent, so that the memory of a response is bounded, however many lookups and matches it has.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::channel::{Channel, Sender};
use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::time::Instant;

use super::error::{self, Failure};
use super::find::{Asked, FEW_MATCHES, Found, MAX_MATCHES, find_as, find_or_wait};
use super::host::Hosts;
use super::mapping::Match;
use super::request::LookupRequest;
use super::stream::{MAPPINGS_PER_PIECE, PIECES_AHEAD};
use crate::fields::Field;
use crate::http::app::App;
use crate::http::counters::LookupOutcome;
use crate::http::places::{Client, Place};
use crate::http::response::{self, BodyError, PIECE, Response};
use crate::http::route::RouteLabel;
use crate::mapping::Traced;
use crate::question::Question;

/// The time for all lookups of one POST, without the time that they wait for matches or for the client.
const LOOKUP_TIME: Duration = Duration::from_secs(10);

/// What a lookup has found, while it is written.
pub(super) struct Answer {
    request: LookupRequest,
    hosts: Hosts,
    matches: Vec<Traced>,
    ambiguous: bool,
    complete: bool,
    truncated: bool,
    /// The number of matches that are written.
    written: usize,
    /// Kept until all are written.
    _place: Option<Place>,
}

impl Answer {
    /// Looks up, and counts the outcome.
    pub(super) async fn find(
        app: &App,
        request: LookupRequest,
        client: Client,
        hosts: Hosts,
    ) -> Result<Self, Failure> {
        app.counters.here().requests.increment();
        hosts.check(&request.who)?;
        let question = &request.question;
        let asked = Asked { who: &request.who, hosts: &hosts, client };
        let found = match request.wait {
            Some(wait) => Box::pin(find_or_wait(app, question, asked, Instant::now() + wait)).await,
            None => find_as(app, question, asked).await,
        };
        let outcome = found.as_ref().map_or(LookupOutcome::Undecided, |Found { answer, .. }| {
            LookupOutcome::of(!answer.value.is_empty(), answer.complete)
        });
        app.counters.here().lookups.count(RouteLabel::Lookup, outcome);
        let Found { answer, place } = found?;
        let (mut matches, complete) = (answer.value, answer.complete);
        let truncated = matches.len() > MAX_MATCHES;
        matches.truncate(MAX_MATCHES);
        let ambiguous = truncated || is_ambiguous(question, &matches);
        Ok(Self { request, hosts, matches, ambiguous, complete, truncated, written: 0, _place: place })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.matches.is_empty()
    }

    /// Writes some of the matches; returns whether that was all.
    async fn write(&mut self, app: &App, out: &mut Vec<u8>) -> bool {
        if self.written == 0 {
            out.extend_from_slice(br#"{"matches":["#);
        }
        let rest = &self.matches[self.written..];
        let part = &rest[..rest.len().min(MAPPINGS_PER_PIECE)];
        let mut written: Vec<Match<'_>> =
            part.iter().map(|traced| Match::new(traced, &self.request.question)).collect();
        if !self.request.fields.is_empty() {
            add_fields(app, &self.request.fields, part, &mut written).await;
        }
        for (at, found) in written.iter().enumerate() {
            if self.written + at > 0 {
                out.push(b',');
            }
            found.write(out, &self.hosts);
        }
        self.written += part.len();
        if self.written < self.matches.len() {
            return false;
        }
        let Self { ambiguous, complete, truncated, .. } = self;
        let truncated = if *truncated { r#","truncated":true"# } else { "" };
        let end = format!(r#"],"ambiguous":{ambiguous},"complete":{complete}{truncated}}}"#);
        out.extend_from_slice(end.as_bytes());
        true
    }
}

/// Whether the request can mean more than one end of a mapping of the best state: of several live ones or,
/// if there is no live one, of several closed ones. One mapping has two ends that the request can mean if
/// both sides of a connection have the requested public address and port.
fn is_ambiguous(question: &Question, found: &[Traced]) -> bool {
    let is_live = found.iter().any(|traced| traced.mapping.is_live());
    let ends = |traced: &Traced| match question.nat_port {
        Some(_) => question.public_ends(&traced.mapping).count(),
        None => 1,
    };
    let best = found.iter().filter(|traced| traced.mapping.is_live() == is_live);
    best.map(ends).sum::<usize>() > 1
}

/// Adds the fields of the kernel's entries at this moment to the matches.
async fn add_fields(app: &App, asked: &[Field], found: &[Traced], matches: &mut [Match<'_>]) {
    let is_live = |traced: &&Traced| traced.mapping.is_live();
    let replies: Vec<_> = found.iter().filter(is_live).map(|traced| traced.mapping.reply).collect();
    let entries = if replies.is_empty() { None } else { app.tracker.kernel_entries(&replies).await };
    let mut entries = entries.into_iter().flatten();
    for (traced, answer) in found.iter().zip(matches) {
        let mapping = &traced.mapping;
        let entry = if mapping.is_live() { entries.next().flatten() } else { None };
        // Another entry is not that of this mapping, which has ended.
        let entry = entry.filter(|entry| entry.id == mapping.id);
        answer.add_fields(asked, entry.as_ref());
    }
}

/// The answers of one request, while they are written.
pub(super) struct Answers {
    app: Arc<App>,
    client: Client,
    hosts: Hosts,
    /// The lookups that are not answered yet.
    requests: std::vec::IntoIter<LookupRequest>,
    current: Option<Answer>,
    /// Whether the response is a list.
    is_list: bool,
    begun: bool,
    arrived: Instant,
    /// The time that the lookups took.
    taken: Duration,
    /// Kept until all is written.
    _places: [Option<Place>; 2],
}

impl Answers {
    /// The answer of one lookup.
    pub(super) fn of_one(app: Arc<App>, client: Client, answer: Answer) -> Self {
        let many = Self::of_many(app, client, Hosts::default(), Vec::new(), [None, None]);
        Self { current: Some(answer), is_list: false, ..many }
    }

    /// A list of answers, in the order of the lookups.
    pub(super) fn of_many(
        app: Arc<App>,
        client: Client,
        hosts: Hosts,
        requests: Vec<LookupRequest>,
        places: [Option<Place>; 2],
    ) -> Self {
        Self {
            app,
            client,
            hosts,
            requests: requests.into_iter(),
            current: None,
            is_list: true,
            begun: false,
            arrived: Instant::now(),
            taken: Duration::ZERO,
            _places: places,
        }
    }

    /// The response. If it is short, it is complete.
    pub(super) async fn respond(mut self, status: StatusCode) -> Result<Response, Failure> {
        let mut piece = Vec::new();
        let is_few = self.current.as_ref().is_none_or(|answer| answer.matches.len() <= FEW_MATCHES);
        if self.write_piece(&mut piece, if is_few { 2 * PIECE } else { PIECE }).await? {
            return Ok(response::json_text(status, piece));
        }
        let (sender, body) = Channel::new(PIECES_AHEAD);
        tokio::spawn(self.send(piece, sender));
        let mut response = response::json_stream(body);
        *response.status_mut() = status;
        Ok(response)
    }

    /// Sends a piece that is written, and all others.
    async fn send(mut self, mut piece: Vec<u8>, mut sender: Sender<Bytes, BodyError>) {
        let mut is_last = false;
        loop {
            if sender.send_data(piece.into()).await.is_err() || is_last {
                return;
            }
            piece = Vec::with_capacity(PIECE + PIECE / 2);
            is_last = match self.write_piece(&mut piece, PIECE).await {
                Ok(is_last) => is_last,
                // Aborting shows the client that the body is incomplete.
                Err(failure) => return sender.abort(failure.error.into()),
            };
        }
    }

    /// Writes about `size` bytes; returns whether that was all.
    async fn write_piece(&mut self, out: &mut Vec<u8>, size: usize) -> Result<bool, Failure> {
        while out.len() < size {
            if let Some(answer) = &mut self.current {
                if answer.write(&self.app, out).await {
                    self.current = None;
                    if !self.is_list {
                        return Ok(true);
                    }
                }
                continue;
            }
            let Some(request) = self.requests.next() else {
                out.extend_from_slice(if self.begun { b"]" } else { b"[]" });
                return Ok(true);
            };
            out.push(if self.begun { b',' } else { b'[' });
            self.begun = true;
            match self.find(request).await {
                Ok(answer) => self.current = Some(answer),
                // Only this lookup has no answer.
                Err(failure)
                    if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_REQUEST]
                        .contains(&failure.status) =>
                {
                    out.extend_from_slice(error::text(&failure.error, &failure.hint).as_bytes());
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(false)
    }

    async fn find(&mut self, mut request: LookupRequest) -> Result<Answer, Failure> {
        if self.taken >= LOOKUP_TIME {
            return Err(Failure {
                status: StatusCode::SERVICE_UNAVAILABLE,
                error: format!("the lookups before this one took {} s", LOOKUP_TIME.as_secs()),
                hint: "send fewer lookups in one request, and name nat_port or one src_ip in each".to_owned(),
            });
        }
        request.wait = request.wait.map(|wait| wait.saturating_sub(self.arrived.elapsed()));
        let (begun, is_waiting) = (Instant::now(), request.wait.is_some_and(|wait| !wait.is_zero()));
        let found = Answer::find(&self.app, request, self.client, self.hosts.clone()).await;
        if !is_waiting {
            self.taken += begun.elapsed();
        }
        found
    }
}
