//! Finding the mappings of a question, in bounded memory, and waiting for one.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use natnames::Who;
use tokio::time::{Instant, sleep_until};

use super::error::Failure;
use super::host::{Hosts, is_one_address};
use super::mapping::Match;
use super::stream::MAPPINGS_PER_SLICE;
use crate::http::app::App;
use crate::http::kind::Kind;
use crate::http::places::{Client, Place};
use crate::mapping::{Mapping, Traced};
use crate::question::Question;
use crate::table::Cursor;
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

/// Whose mappings are meant, if somebody's are, and who asks.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) who: &'a [Who],
    pub(super) hosts: &'a Hosts,
    pub(super) client: Client,
}

/// Finds the mappings that match; if somebody's are meant, those.
pub(super) async fn find_as(app: &App, question: &Question, asked: Asked<'_>) -> Result<Found, Failure> {
    match asked.who.is_empty() {
        true => find(app, question, asked.client).await,
        false => Box::pin(find_of(app, question, asked)).await,
    }
}

/// Finds somebody's mappings, live ones first, then the newest: by a scan of the table, unless the question has an index.
async fn find_of(app: &App, question: &Question, asked: Asked<'_>) -> Result<Found, Failure> {
    let Asked { who, hosts, client } = asked;
    let is_of = |traced: &Traced| Match::new(traced, question).is_of(who, hosts);
    if question.is_indexed() {
        let mut found = find(app, question, client).await?;
        found.answer.value.retain(is_of);
        return Ok(found);
    }
    let place = app.places.take_soon(Kind::Scan, client).await?;
    let complete = app.tracker.is_complete_now().await?;
    let nets = hosts.nets_of(who);
    let (addresses, nets): (Vec<IpNetwork>, Vec<IpNetwork>) =
        nets.into_iter().partition(|net| is_one_address(*net));
    let addresses: HashSet<IpAddr> = addresses.iter().map(IpNetwork::ip).collect();
    let has = |address: IpAddr| addresses.contains(&address) || nets.iter().any(|net| net.contains(address));
    let wanted =
        |mapping: &Mapping| question.matches(mapping) && (has(mapping.src_ip()) || has(mapping.server_ip()));
    let (mut value, mut next) = (Vec::new(), Some(Cursor::START));
    while let Some(from) = next {
        let (found, further) = app.tracker.scan_slice(from, MAPPINGS_PER_SLICE, wanted).await?;
        value.extend(found.into_iter().filter(is_of));
        next = further.filter(|_| value.len() <= MAX_MATCHES);
    }
    value.sort_by_key(|traced| std::cmp::Reverse((traced.mapping.is_live(), traced.mapping.opened.wall)));
    Ok(Found { answer: Answer { value, complete }, place: Some(place) })
}

/// Finds the mappings that match, by a scan of the table.
async fn scan(app: &App, question: &Question, place: Place) -> Result<Found, Failure> {
    Ok(Found { answer: app.tracker.find(question, MAX_MATCHES).await?, place: Some(place) })
}

/// [`find`], for a lookup that has time until the deadline anyway.
async fn find_until(
    app: &App,
    question: &Question,
    asked: Asked<'_>,
    deadline: Instant,
) -> Result<Found, Failure> {
    if question.is_indexed() || !asked.who.is_empty() || Instant::now() >= deadline {
        return find_as(app, question, asked).await;
    }
    let place = app.places.take_until(Kind::Scan, asked.client, deadline).await?;
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
    asked: Asked<'_>,
    deadline: Instant,
) -> Result<Found, Failure> {
    // Whether each lookup of the whole question is cheap, or needed because it queries the kernel.
    let queries_kernel = || !question.outside_tuples(&app.tracker.filter(), &[]).is_empty();
    let is_repeated = question.is_indexed() || (asked.who.is_empty() && queries_kernel());
    // Watching starts before the first lookup, so that no change in between is missed.
    let watch = app.tracker.watch_changes(question.clone());
    let mut stopping = app.stopping.clone();
    let mut questions = vec![question.clone()];
    loop {
        for question in std::mem::take(&mut questions) {
            let found = find_until(app, &question, asked, deadline).await?;
            if !found.answer.value.is_empty() {
                return Ok(found);
            }
        }
        let matching = tokio::select! {
            matching = watch.next() => Some(matching).filter(|_| Instant::now() < deadline),
            () = sleep_until(deadline) => None,
            _ = stopping.wait_for(|stopping| *stopping) => None,
        };
        let Some(matching) = matching else { return last(app, question, is_repeated, asked).await };
        questions = match is_repeated || matching.is_unknown {
            true => vec![question.clone()],
            false => matching.mappings.iter().map(|mapping| question.about(&mapping.tuples)).collect(),
        };
    }
}

/// The last lookup: the kernel may have a connection for which it sent no event. If only a scan of the table could
/// find one that no change has reported, this only finds out whether the empty answer is complete.
async fn last(app: &App, question: &Question, is_repeated: bool, asked: Asked<'_>) -> Result<Found, Failure> {
    match is_repeated {
        true => find_as(app, question, asked).await,
        false => find(app, &question.about_nothing(), asked.client).await,
    }
}
