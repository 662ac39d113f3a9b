//! The handler of `/v1/history`.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use hyper::StatusCode;
use ipnetwork::IpNetwork;
use nathistory::log_time::Reference;
use nathistory::{Gap, Millis, Reason};

use super::asked::Asked;
use super::search::{Begin, Search};
use super::trail::Trail;
use crate::clock::Stamp;
use crate::http::app::App;
use crate::http::counters::LookupOutcome;
use crate::http::kind::Kind;
use crate::http::past::History;
use crate::http::response::{self, Response};
use crate::http::route::RouteLabel;
use crate::http::v1::error::Failure;
use crate::http::v1::host::Hosts;
use crate::mapping::Protocol;
use crate::question::{Question, StateFilter};

/// What happened longer ago than this is in the history already, in milliseconds.
const RECENT: Millis = 60_000;
/// For how long the kernel can hide a connection, in milliseconds: one that a clash of two UDP packets has made.
const HIDDEN: Millis = 20_000;
/// The most live mappings that are verified for one question.
const MOST_VERIFIED: usize = 1000;

/// Answers a question about the past.
pub(in crate::http) async fn answer(
    app: &Arc<App>,
    query: Option<&str>,
    client: IpAddr,
    hosts: Hosts,
) -> Result<Response, Failure> {
    let count = |outcome| app.counters.here().lookups.count(RouteLabel::History, outcome);
    let asked = read(query, app.clock.now()).inspect_err(|_| count(LookupOutcome::Bad))?;
    let Some(history) = &app.history else {
        return Err(Failure {
            status: StatusCode::NOT_FOUND,
            error: "no history is kept".to_owned(),
            hint: "set path in [history] and restart the daemon: from then on it can be asked".to_owned(),
        });
    };
    app.counters.here().requests.increment();
    let answered = search(app, history, asked, query, client, hosts).await;
    match answered {
        Ok((response, outcome)) => {
            count(outcome);
            Ok(response)
        }
        Err(failure) => {
            count(LookupOutcome::Undecided);
            Err(failure)
        }
    }
}

fn read(query: Option<&str>, now: Stamp) -> Result<Asked, Failure> {
    let now = Millis::try_from(now.wall).unwrap_or(Millis::MAX);
    Asked::from_query(query, &Reference::local(now))
}

async fn search(
    app: &Arc<App>,
    history: &Arc<History>,
    mut asked: Asked,
    query: Option<&str>,
    client: IpAddr,
    hosts: Hosts,
) -> Result<(Response, LookupOutcome), Failure> {
    hosts.check(&asked.who)?;
    let kind = if asked.is_moment { Kind::History } else { Kind::HistorySpan };
    let place = app.places.take_soon(kind, client.into()).await?;
    let is_verified = verify(app, &asked.question).await?;
    let mut now = app.clock.now();
    let mut known_until = None;
    if u64::try_from(asked.question.to + RECENT).is_ok_and(|recent| recent >= now.wall) {
        known_until = Some(history.past.catch_up().await);
        // What has been read from the kernel only now has times up to now, and is asked about too.
        now = app.clock.now();
        asked = read(query, now)?;
    }
    if !asked.who.is_empty() && asked.names_no_address() {
        asked.addresses = hosts.addresses_of(&asked.who)?;
        // Somebody who has had no address has no mappings, but the history has gaps.
        if asked.addresses.is_empty() {
            asked.question.src_ip = Some(std::net::Ipv4Addr::UNSPECIFIED.into());
        }
    }
    let trail = Trail::new(history, client, query.unwrap_or_default(), now);
    let hidden = Gap {
        from: Millis::try_from(now.wall).unwrap_or(Millis::MAX) - HIDDEN,
        to: None,
        reason: Reason::NotReported,
        detail: Some("the kernel may have connections that the table lacks".to_owned()),
    };
    let gap = Some(hidden).filter(|_| !is_verified);
    let stopping = app.stopping.clone();
    let search = Search { history: history.clone(), hosts, asked, known_until, gap, trail, stopping, place };
    let begun = search.start().map_err(|error| no_thread(app, history, &error))?;
    match begun.await {
        Ok(Begin::Whole { text, has_matches, complete }) => {
            let status = if has_matches { StatusCode::OK } else { StatusCode::NOT_FOUND };
            Ok((response::json_text(status, text), LookupOutcome::of(has_matches, complete)))
        }
        Ok(Begin::Long(body)) => Ok((response::json_stream(body), LookupOutcome::Found)),
        Ok(Begin::Unreadable(error)) => Err(unreadable(app, history, &error)),
        Ok(Begin::Unrecorded(error)) => Err(unrecorded(app, history, &error)),
        // The thread ends without a word if the daemon stops, or if it panics.
        Err(_) => Err(Failure {
            status: StatusCode::SERVICE_UNAVAILABLE,
            error: "the question was not answered".to_owned(),
            hint: "the daemon is about to stop, or its log has the reason".to_owned(),
        }),
    }
}

/// Has the live mappings verified that fit, if they are doubtful: a mapping that began while no daemon ran ends
/// without an event. What ended is in the history then. Returns whether no live one is missing.
async fn verify(app: &App, asked: &nathistory::Question) -> Result<bool, Failure> {
    let question = Question {
        nat_ip: asked.nat_ip.map(IpNetwork::from),
        nat_port: asked.nat_port,
        src_ip: asked.src_ip.map(IpNetwork::from),
        src_port: asked.src_port,
        dst_ip: asked.dst_ip.map(IpNetwork::from),
        dst_port: asked.dst_port,
        protocol: asked.protocol.map(Protocol::from),
        zone: asked.zone,
        state: StateFilter::Live,
        ..Question::default()
    };
    let found = app.tracker.find(&question, MOST_VERIFIED).await?;
    Ok(found.complete && found.value.len() <= MOST_VERIFIED)
}

fn no_thread(app: &App, history: &History, error: &io::Error) -> Failure {
    history.log_failure(&format!("cannot start a thread: {error}"), app.clock.now());
    Failure {
        status: StatusCode::SERVICE_UNAVAILABLE,
        error: "the system cannot start a thread for this question".to_owned(),
        hint: "try again".to_owned(),
    }
}

fn unreadable(app: &App, history: &History, error: &nathistory::Error) -> Failure {
    history.log_failure(&error.to_string(), app.clock.now());
    Failure {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        error: "the history cannot be read".to_owned(),
        hint: "the log of the daemon has the reason".to_owned(),
    }
}

/// Who asks for personal data must be recorded.
fn unrecorded(app: &App, history: &History, error: &io::Error) -> Failure {
    history.log_failure(&format!("audit: {error}"), app.clock.now());
    Failure {
        status: StatusCode::SERVICE_UNAVAILABLE,
        error: "the question cannot be recorded, so it is not answered".to_owned(),
        hint:
            "audit in [history] says where questions are recorded, and the log of the daemon why that fails"
                .to_owned(),
    }
}
