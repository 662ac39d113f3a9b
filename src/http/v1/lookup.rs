//! `/v1/lookup`: who is behind a public address and port, by any subset of fields.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::{Body, Incoming};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::question::Asked;
use super::shape::Match;
use super::{Failure, Response};
use crate::http::{App, response};
use crate::mapping::Mapping;
use crate::question::Question;
use crate::stats::{Outcome, Route};
use crate::table::Change;

/// Matches of one answer; more are for `/v1/mappings`.
const MOST_MATCHES: usize = 1000;
/// Questions of one POST.
const MOST_QUESTIONS: usize = 1000;
/// Bytes of one POST.
const MOST_BYTES: usize = 1024 * 1024;
/// A POST must be there within this time.
const BODY_TIME: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
struct Answer {
    matches: Vec<Match>,
    ambiguous: bool,
    complete: bool,
    /// Only where there were more matches than are shown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

impl Answer {
    fn new(mut found: Vec<Mapping>, complete: bool) -> Self {
        let truncated = found.len() > MOST_MATCHES;
        found.truncate(MOST_MATCHES);
        Self {
            ambiguous: is_ambiguous(&found),
            matches: found.iter().map(Match::from).collect(),
            complete,
            truncated,
        }
    }
}

/// Whether more than one mapping may be meant: more than one that lives or, if
/// none does, more than one that closed.
fn is_ambiguous(found: &[Mapping]) -> bool {
    let live = found.iter().filter(|mapping| mapping.is_live()).count();
    if live == 0 { found.len() > 1 } else { live > 1 }
}

/// Answers one question.
pub(super) async fn one(app: &App, query: Option<&str>) -> Result<Response, Failure> {
    let asked = Asked::from_query(query).inspect_err(|_| count_bad(app))?;
    let answer = look_up(app, &asked).await?;
    let status = if answer.matches.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    Ok(json(status, &answer))
}

/// Answers up to a thousand, in order. Those that wait do so one after the
/// other, but together no longer than the longest of them would alone.
pub(super) async fn many(app: &App, body: Incoming) -> Result<Response, Failure> {
    // What says itself that it is too large is refused before it is sent.
    if body.size_hint().lower() > MOST_BYTES as u64 {
        return Err(too_large("more than 1 MiB of questions"));
    }
    let body = timeout(BODY_TIME, Limited::new(body, MOST_BYTES).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(too_large("more than 1 MiB of questions"));
        }
        Ok(Err(error)) => return Err(Failure::bad(format!("the body broke off: {error}"), "send it whole")),
        Err(_) => {
            let error = "the body took longer than 10 s".to_owned();
            let hint = "send it at once".to_owned();
            return Err(Failure { status: StatusCode::REQUEST_TIMEOUT, error, hint });
        }
    };
    let questions: Vec<Value> = serde_json::from_slice(&body).map_err(|error| {
        count_bad(app);
        Failure::bad(
            format!("no list of questions: {error}"),
            r#"write [{"nat_ip": "100.64.2.1", "nat_port": 40001}]"#,
        )
    })?;
    if questions.len() > MOST_QUESTIONS {
        return Err(too_large(&format!("{} questions, of at most {MOST_QUESTIONS}", questions.len())));
    }
    // All are read before the first is answered: a bad one costs nothing.
    let mut asked = Vec::with_capacity(questions.len());
    for (at, question) in questions.iter().enumerate() {
        let read = Asked::from_json(question).inspect_err(|_| count_bad(app));
        asked.push(
            read.map_err(|failure| Failure {
                error: format!("question {at}: {}", failure.error),
                ..failure
            })?,
        );
    }
    let begun = Instant::now();
    let mut answers = Vec::with_capacity(asked.len());
    for mut asked in asked {
        asked.wait = asked.wait.map(|wait| wait.saturating_sub(begun.elapsed()));
        answers.push(look_up(app, &asked).await?);
    }
    Ok(json(StatusCode::OK, &answers))
}

fn too_large(error: &str) -> Failure {
    Failure {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        error: error.to_owned(),
        hint: "ask in several requests".to_owned(),
    }
}

/// A question that makes no sense, or a list of which one doesn't.
fn count_bad(app: &App) {
    app.stats.lookups.count(Route::Lookup, Outcome::Bad);
}

async fn look_up(app: &App, asked: &Asked) -> Result<Answer, Failure> {
    app.stats.requests.increment();
    let answer = wait_for(app, asked).await;
    let outcome = answer
        .as_ref()
        .map_or(Outcome::Undecided, |answer| Outcome::of(!answer.matches.is_empty(), answer.complete));
    app.stats.lookups.count(Route::Lookup, outcome);
    answer
}

async fn wait_for(app: &App, asked: &Asked) -> Result<Answer, Failure> {
    let Some(wait) = asked.wait else { return ask(app, &asked.question).await };
    let deadline = Instant::now() + wait;
    // Listening begins before the first look, so that nothing falls between.
    let mut listener = app.tracker.listen();
    let mut stopping = app.stopping.clone();
    loop {
        let answer = ask(app, &asked.question).await?;
        if !answer.matches.is_empty() {
            return Ok(answer);
        }
        let matching = async {
            while let Some((lost, mut changes)) = listener.next().await {
                let is_match = |change| match change {
                    Change::Opened(mapping) | Change::Closed(mapping) => asked.question.matches(&mapping),
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
            // What the kernel tells of without events is asked for once more.
            return ask(app, &asked.question).await;
        }
    }
}

async fn ask(app: &App, question: &Question) -> Result<Answer, Failure> {
    let found = app.tracker.find(question, MOST_MATCHES).await?;
    Ok(Answer::new(found.value, found.complete))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    response::json_text(status, serde_json::to_vec(value).unwrap_or_default())
}
