//! `/v1/lookup`: which inside host is behind a public address and port, by any subset of fields.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Incoming};
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use tokio::time::timeout;

use super::answers::{Answer, Answers};
use super::error::Failure;
use super::host::Hosts;
use super::request::LookupRequest;
use crate::http::app::App;
use crate::http::counters::LookupOutcome;
use crate::http::kind::Kind;
use crate::http::places::Client;
use crate::http::response::Response;
use crate::http::route::RouteLabel;

/// The maximum number of lookups in one POST.
const MAX_LOOKUPS: usize = 1000;
/// With at most this many lookups, a POST needs its place only until its body has arrived.
const FEW_LOOKUPS: usize = 16;
/// The maximum size of the body of a POST in bytes.
const MAX_BYTES: usize = 1024 * 1024;
/// The body of a POST must arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers one lookup.
pub(in crate::http) async fn one(
    app: &Arc<App>,
    query: Option<&str>,
    client: Client,
    hosts: Hosts,
) -> Result<Response, Failure> {
    let request = LookupRequest::from_query(query).inspect_err(|_| count_bad(app))?;
    let _place = match request.wait {
        Some(_) => Some(app.places.take(Kind::Wait, client)?),
        None => None,
    };
    let answer = Answer::find(app, request, client, hosts).await?;
    let status = if answer.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    Answers::of_one(app.clone(), client, answer).respond(status).await
}

/// Answers up to 1,000 lookups, in order. Those with `wait` wait one after the other, but together no
/// longer than the longest of them alone.
pub(in crate::http) async fn many(
    app: &Arc<App>,
    body: Incoming,
    client: Client,
    hosts: Hosts,
) -> Result<Response, Failure> {
    // If the header already says that the body is too large, nothing is read.
    if body.size_hint().lower() > MAX_BYTES as u64 {
        return Err(too_large("the body is larger than 1 MiB"));
    }
    let place = app.places.take_soon(Kind::Post, client).await?;
    let body = timeout(BODY_TIMEOUT, read(body)).await.unwrap_or_else(|_| {
        let error = "the body took longer than 10 s".to_owned();
        let hint = "send it faster".to_owned();
        Err(Failure { status: StatusCode::REQUEST_TIMEOUT, error, hint })
    })?;
    let requests = parse(app, &body)?;
    drop(body);
    let waiting = match requests.iter().any(|request| request.wait.is_some()) {
        true => Some(app.places.take(Kind::Wait, client)?),
        false => None,
    };
    let place = Some(place).filter(|_| requests.len() > FEW_LOOKUPS);
    Answers::of_many(app.clone(), client, hosts, requests, [place, waiting]).respond(StatusCode::OK).await
}

/// Reads a body. A client that sends it in many small parts costs no more memory than others.
async fn read(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Failure::bad(format!("the body ended early: {error}"), "send all of it"))?;
        let data = frame.into_data().unwrap_or_default();
        if bytes.len() + data.len() > MAX_BYTES {
            return Err(too_large("the body is larger than 1 MiB"));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// The lookups of a body. All are parsed before the first one is answered, so that an invalid one costs little.
fn parse(app: &App, body: &[u8]) -> Result<Vec<LookupRequest>, Failure> {
    let mut list = LookupList::default();
    let mut text = serde_json::Deserializer::from_slice(body);
    let parsed = text.deserialize_seq(&mut list).and_then(|()| text.end());
    parsed.map_err(|error| {
        count_bad(app);
        Failure::bad(
            format!("the body is not a list of lookups: {error}"),
            r#"write [{"nat_ip": "100.64.2.1", "nat_port": 40001}]"#,
        )
    })?;
    if list.count > MAX_LOOKUPS {
        return Err(too_large(&format!("{} lookups in one request, at most {MAX_LOOKUPS}", list.count)));
    }
    match list.invalid {
        None => Ok(list.requests),
        Some((index, failure)) => {
            count_bad(app);
            Err(Failure { error: format!("lookup {index}: {}", failure.error), ..failure })
        }
    }
}

/// Reads a list of lookups, one after the other: only one of them is in memory as JSON.
#[derive(Default)]
struct LookupList {
    requests: Vec<LookupRequest>,
    count: usize,
    /// The first one that is not valid, with its number.
    invalid: Option<(usize, Failure)>,
}

impl<'de> Visitor<'de> for &mut LookupList {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        loop {
            // The others are only counted.
            if self.count >= MAX_LOOKUPS || self.invalid.is_some() {
                if list.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(());
                }
            } else {
                let Some(lookup) = list.next_element::<Value>()? else { return Ok(()) };
                match LookupRequest::from_json(&lookup) {
                    Ok(request) => self.requests.push(request),
                    Err(failure) => self.invalid = Some((self.count, failure)),
                }
            }
            self.count += 1;
        }
    }
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
    app.counters.here().lookups.count(RouteLabel::Lookup, LookupOutcome::Bad);
}
