//! Finding the mappings of a question, in bounded memory, and waiting for one.

use std::net::IpAddr;

use tokio::time::{Instant, sleep_until};

use super::error::Failure;
use crate::http::app::App;
use crate::http::kind::Kind;
use crate::http::places::{Client, Place};
use crate::mapping::Traced;
use crate::question::Question;
use crate::tracker::Answer;

/// The maximum number of matches of one lookup; `/v1/mappings` returns more.
pub(super) const MAX_MATCHES: usize = 1000;
/// With more matches, a lookup needs a place until they are sent.
pub(super) const FEW_MATCHES: usize = 64;
/// What a lookup has found: at most [`MAX_MATCHES`], and one more if there are more.
pub(super) struct Found {
    pub(super) answer: Answer<Vec<Traced>>,
    /// Kept until the matches are sent.
    pub(super) place: Option<Place>,
}

/// Finds the mappings that match.
pub(super) async fn find(app: &App, question: &Question, client: Client) -> Result<Found, Failure> {
    if !question.is_indexed() {
        let place = app.places.take_soon(Kind::Scan, client).await?;
        return scan(app, question, place).await;
    }
    let answer = app.tracker.find(question, FEW_MATCHES).await?;
    if answer.value.len() <= FEW_MATCHES {
        return Ok(Found { answer, place: None });
    }
    drop(answer);
    let place = Some(app.places.take_soon(Kind::Large, client).await?);
    Ok(Found { answer: app.tracker.find(question, MAX_MATCHES).await?, place })
}

/// Finds the mappings that match and whose inside host has one of these addresses.
pub(super) async fn find_at(
    app: &App,
    question: &Question,
    addresses: &[IpAddr],
    client: Client,
) -> Result<Found, Failure> {
    let mut all = Found { answer: Answer { value: Vec::new(), complete: true }, place: None };
    for address in addresses {
        let by_source = Question { src_ip: Some((*address).into()), ..question.clone() };
        let by_server = Question { server_ip: Some((*address).into()), ..question.clone() };
        for asked in [by_source, by_server] {
            let found = find(app, &asked, client).await?;
            all.answer.complete &= found.answer.complete;
            all.place = all.place.or(found.place);
            for traced in found.answer.value {
                // A host that is connected to itself is both.
                let is_new = !all.answer.value.iter().any(|other| other.mapping == traced.mapping);
                all.answer.value.extend(is_new.then_some(traced));
            }
            if all.answer.value.len() > MAX_MATCHES {
                return Ok(all);
            }
        }
    }
    Ok(all)
}

/// Finds the mappings that match, by a scan of the table.
async fn scan(app: &App, question: &Question, place: Place) -> Result<Found, Failure> {
    Ok(Found { answer: app.tracker.find(question, MAX_MATCHES).await?, place: Some(place) })
}

/// [`find`], for a lookup that has time until the deadline anyway.
async fn find_until(
    app: &App,
    question: &Question,
    client: Client,
    deadline: Instant,
) -> Result<Found, Failure> {
    if question.is_indexed() || Instant::now() >= deadline {
        return find(app, question, client).await;
    }
    let place = app.places.take_until(Kind::Scan, client, deadline).await?;
    scan(app, question, place).await
}

/// Finds the mappings that match. If there are none, waits for one until the deadline.
///
/// Changes of the table are compared with the question from the beginning, also while the table is looked up. So a
/// lookup that no index serves scans the table once: later only the mappings of changes that match are looked
/// up.
pub(super) async fn find_or_wait(
    app: &App,
    question: &Question,
    deadline: Instant,
    client: Client,
) -> Result<Found, Failure> {
    // Whether each lookup of the whole question is cheap, or needed because it queries the kernel.
    let is_repeated =
        question.is_indexed() || !question.outside_tuples(&app.tracker.filter(), &[]).is_empty();
    // Watching starts before the first lookup, so that no change in between is missed.
    let watch = app.tracker.watch_changes(question.clone());
    let mut stopping = app.stopping.clone();
    let mut questions = vec![question.clone()];
    loop {
        for asked in std::mem::take(&mut questions) {
            let found = find_until(app, &asked, client, deadline).await?;
            if !found.answer.value.is_empty() {
                return Ok(found);
            }
        }
        let matching = tokio::select! {
            matching = watch.next() => Some(matching).filter(|_| Instant::now() < deadline),
            () = sleep_until(deadline) => None,
            _ = stopping.wait_for(|stopping| *stopping) => None,
        };
        let Some(matching) = matching else { return last(app, question, is_repeated, client).await };
        questions = match is_repeated || matching.is_unknown {
            true => vec![question.clone()],
            false => matching.mappings.iter().map(|mapping| question.about(&mapping.tuples)).collect(),
        };
    }
}

/// The last lookup: the kernel may have a connection for which it sent no event. If only a scan of the table could
/// find one that no change has reported, this only finds out whether the empty answer is complete.
async fn last(app: &App, question: &Question, is_repeated: bool, client: Client) -> Result<Found, Failure> {
    match is_repeated {
        true => find(app, question, client).await,
        false => find(app, &question.about_nothing(), client).await,
    }
}
