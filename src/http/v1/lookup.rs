//! `/v1/lookup`: which inside host is behind a public address and port, by any subset of fields.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::{Body, Incoming};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::Failure;
use super::mapping::Match;
use super::request::LookupRequest;
use crate::fields::Field;
use crate::http::app::App;
use crate::http::counters::LookupOutcome;
use crate::http::response::{self, Response};
use crate::http::route::RouteLabel;
use crate::mapping::Traced;
use crate::question::Question;
use crate::table::Change;

/// The maximum number of matches of one lookup; `/v1/mappings` returns more.
const MAX_MATCHES: usize = 1000;
/// The maximum number of lookups in one POST.
const MAX_LOOKUPS: usize = 1000;
/// The maximum size of the body of a POST in bytes.
const MAX_BYTES: usize = 1024 * 1024;
/// The body of a POST must arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
struct LookupResponse {
    matches: Vec<Match>,
    ambiguous: bool,
    complete: bool,
    /// Only if there were more matches than these.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

impl LookupResponse {
    fn new(question: &Question, found: &[Traced], complete: bool) -> Self {
        let truncated = found.len() > MAX_MATCHES;
        let found = &found[..found.len().min(MAX_MATCHES)];
        Self {
            ambiguous: truncated || is_ambiguous(question, found),
            matches: found.iter().map(|traced| Match::new(traced, question)).collect(),
            complete,
            truncated,
        }
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

/// Answers one lookup.
pub(in crate::http) async fn one(app: &App, query: Option<&str>) -> Result<Response, Failure> {
    let request = LookupRequest::from_query(query).inspect_err(|_| count_bad(app))?;
    let response = look_up(app, &request).await?;
    let status = if response.matches.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    Ok(json(status, &response))
}

/// Answers up to 1,000 lookups, in order. Those with `wait` wait one after the other, but together no
/// longer than the longest of them alone.
pub(in crate::http) async fn many(app: &App, body: Incoming) -> Result<Response, Failure> {
    // If the header already says that the body is too large, nothing is read.
    if body.size_hint().lower() > MAX_BYTES as u64 {
        return Err(too_large("the body is larger than 1 MiB"));
    }
    let body = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BYTES).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(too_large("the body is larger than 1 MiB"));
        }
        Ok(Err(error)) => {
            return Err(Failure::bad(format!("the body ended early: {error}"), "send all of it"));
        }
        Err(_) => {
            let error = "the body took longer than 10 s".to_owned();
            let hint = "send it faster".to_owned();
            return Err(Failure { status: StatusCode::REQUEST_TIMEOUT, error, hint });
        }
    };
    let lookups: Vec<Value> = serde_json::from_slice(&body).map_err(|error| {
        count_bad(app);
        Failure::bad(
            format!("the body is not a list of lookups: {error}"),
            r#"write [{"nat_ip": "100.64.2.1", "nat_port": 40001}]"#,
        )
    })?;
    if lookups.len() > MAX_LOOKUPS {
        return Err(too_large(&format!("{} lookups in one request, at most {MAX_LOOKUPS}", lookups.len())));
    }
    // All lookups are parsed before the first one is answered, so that an invalid one costs little.
    let mut requests = Vec::with_capacity(lookups.len());
    for (index, lookup) in lookups.iter().enumerate() {
        let request = LookupRequest::from_json(lookup).map_err(|failure| {
            count_bad(app);
            Failure { error: format!("lookup {index}: {}", failure.error), ..failure }
        })?;
        requests.push(request);
    }
    let begun = Instant::now();
    let mut responses = Vec::with_capacity(requests.len());
    for mut request in requests {
        request.wait = request.wait.map(|wait| wait.saturating_sub(begun.elapsed()));
        responses.push(look_up(app, &request).await?);
    }
    Ok(json(StatusCode::OK, &responses))
}

fn too_large(error: &str) -> Failure {
    Failure {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        error: error.to_owned(),
        hint: "send several requests".to_owned(),
    }
}

/// Counts a lookup that is not valid, or a list that contains one.
fn count_bad(app: &App) {
    app.counters.lookups.count(RouteLabel::Lookup, LookupOutcome::Bad);
}

async fn look_up(app: &App, request: &LookupRequest) -> Result<LookupResponse, Failure> {
    app.counters.requests.increment();
    let response = find_or_wait(app, request).await;
    let outcome = response.as_ref().map_or(LookupOutcome::Undecided, |response| {
        LookupOutcome::of(!response.matches.is_empty(), response.complete)
    });
    app.counters.lookups.count(RouteLabel::Lookup, outcome);
    response
}

async fn find_or_wait(app: &App, request: &LookupRequest) -> Result<LookupResponse, Failure> {
    let Some(wait) = request.wait else { return find(app, request).await };
    let deadline = Instant::now() + wait;
    // Listening starts before the first lookup, so that no change in between is missed.
    let mut listener = app.tracker.listen_for_changes();
    let mut stopping = app.stopping.clone();
    loop {
        let response = find(app, request).await?;
        if !response.matches.is_empty() {
            return Ok(response);
        }
        let matching = async {
            while let Some((lost, mut changes)) = listener.next().await {
                let is_match = |change| match change {
                    Change::Opened(mapping) | Change::Closed(mapping) => request.question.matches(&mapping),
                    Change::Lost(_) => true,
                };
                if lost > 0 || changes.any(is_match) {
                    return;
                }
            }
        };
        let over = tokio::select! {
            waited = timeout_at(deadline, matching) => waited.is_err(),
            _ = stopping.wait_for(|stopping| *stopping) => true,
        };
        if over {
            // One last lookup: the kernel may have a connection for which it sent no event.
            return find(app, request).await;
        }
    }
}

async fn find(app: &App, request: &LookupRequest) -> Result<LookupResponse, Failure> {
    let found = app.tracker.find(&request.question, MAX_MATCHES).await?;
    let mut response = LookupResponse::new(&request.question, &found.value, found.complete);
    if !request.fields.is_empty() {
        add_fields(app, &request.fields, &found.value, &mut response.matches).await;
    }
    Ok(response)
}

/// Adds the fields of the kernel's entries at this moment to the matches.
async fn add_fields(app: &App, asked: &[Field], found: &[Traced], matches: &mut [Match]) {
    let is_live = |traced: &&Traced| traced.mapping.is_live();
    let replies: Vec<_> =
        found.iter().take(matches.len()).filter(is_live).map(|traced| traced.mapping.reply).collect();
    let entries = if replies.is_empty() { None } else { app.tracker.kernel_entries(&replies).await };
    let mut entries = entries.into_iter().flatten();
    for (traced, answer) in found.iter().zip(matches) {
        let mapping = &traced.mapping;
        let entry = if mapping.is_live() { entries.next().flatten() } else { None };
        // Another entry is not that of this mapping, which has ended.
        let entry = entry.filter(|entry| entry.id == mapping.id);
        answer.add_fields(asked, mapping, entry.as_ref());
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    response::json_text(status, serde_json::to_vec(value).unwrap_or_default())
}
