//! Takes a request, refuses it or passes it to the handler of its route, and counts the response.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::{Method, Request, StatusCode};
use tokio::time::timeout;

use super::app::{App, KnownRules};
use super::connections::{Connection, Ending};
use super::kind::Kind;
use super::legacy::lookup::Wanted;
use super::refusal::Refusal;
use super::response::{self, Response};
use super::route::{self, ErrorFormat, Handler, Route, Scope};
use super::v1::host::Hosts;
use super::{legacy, v1};
use crate::config::Key;

/// The maximum number of lines of a request header.
const MAX_HEADERS: usize = 32;
/// The same for a request that a proxy forwards, with its client's header.
pub(super) const MAX_FORWARDED_HEADERS: usize = 100;
/// The maximum size of a request header in bytes.
pub(super) const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Bytes of an ignored body that are read at most, and the time for that.
const MAX_DISCARDED: usize = 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// What the requests of one connection share.
pub(super) struct Visitor {
    pub(super) app: Arc<App>,
    pub(super) rules: KnownRules,
    pub(super) address: SocketAddr,
    pub(super) connection: Arc<Connection>,
}

/// A request for which a route was found, or none.
enum Begun {
    Refused(Box<Response>),
    /// The usual lookup, with the memory of its request's header.
    Lookup(Wanted, HeaderMap),
    Other(Pin<Box<dyn Future<Output = Response> + Send>>),
}

/// Answers one request, and counts the response.
pub(super) fn answer(
    visitor: &Arc<Visitor>,
    request: Request<Incoming>,
) -> impl Future<Output = Response> + Send + use<> {
    let (begun_at, route) = (Instant::now(), route::find(request.uri().path()));
    visitor.connection.begin_request();
    let visitor = visitor.clone();
    let begun = visitor.begin(route, request);
    // Each request moves this to its place in the connection. So it is small, and others than lookups are boxed.
    async move {
        let response = match begun {
            Begun::Refused(response) => *response,
            Begun::Lookup(wanted, header) => {
                let Visitor { app, connection, .. } = &*visitor;
                legacy::lookup::answer(app, wanted, connection.client, header, begun_at).await
            }
            Begun::Other(response) => response.await,
        };
        let ended_at = Instant::now();
        let Visitor { app, connection, .. } = &*visitor;
        app.counters.here().count_response(route.label, response.status().as_u16(), ended_at - begun_at);
        if response::is_stream(&response) {
            return response::holding(response, Ending(connection.clone()));
        }
        connection.end_request(ended_at);
        response
    }
}

impl Visitor {
    fn begin(self: &Arc<Self>, route: &'static Route, request: Request<Incoming>) -> Begun {
        let (handler, key) = match self.admit(route, &request) {
            Ok(admitted) => admitted,
            Err(refused) => return Begun::Refused(refused),
        };
        if handler != Handler::LegacyLookup {
            let visitor = self.clone();
            return Begun::Other(Box::pin(async move { visitor.handle(route, handler, key, request).await }));
        }
        match legacy::lookup::read(&self.app, key, request.uri()) {
            Ok(wanted) => Begun::Lookup(wanted, request.into_parts().0.headers),
            Err(response) => Begun::Refused(response),
        }
    }

    /// The handler of an admitted request, and the key that the legacy routes look up. Checks first whether the client
    /// is allowed: others learn nothing, not even which routes exist.
    fn admit(
        &self,
        route: &'static Route,
        request: &Request<Incoming>,
    ) -> Result<(Handler, Key), Box<Response>> {
        let Self { app, rules, address, connection } = self;
        let (is_allowed, key) = app.with_rules(rules, |rules| (rules.acl.allows(address.ip()), rules.key));
        if !is_allowed {
            app.counters.here().requests.increment();
            app.counters.here().refused.increment();
            app.log_refusal(*address, request.uri().path());
            return Err(Box::new(refuse(route, Refusal::Client)));
        }
        log::debug!("{} requests {} {}", address, request.method(), request.uri());
        if is_header_too_large(route, request) {
            return Err(Box::new(refuse(route, Refusal::HeaderSize)));
        }
        let Some(handler) = route.handler else { return Err(Box::new(refuse(route, Refusal::Path))) };
        if request.method() == Method::OPTIONS {
            return Err(Box::new(options(route)));
        }
        if !route.supports(request.method()) {
            return Err(Box::new(response::allowing(refuse(route, Refusal::Method), route.methods)));
        }
        if request.method() != Method::POST && !route.is_forwarded() && !request.body().is_end_stream() {
            return Err(Box::new(refuse(route, Refusal::Body)));
        }
        if connection.is_spare && !matches!(route.scope, Scope::Health | Scope::Metrics) {
            return Err(Box::new(response::closing(refuse(route, Refusal::Spare))));
        }
        Ok((handler, key))
    }

    /// Who the inside hosts are, if the client may know it.
    fn hosts(&self) -> Hosts {
        Hosts::new(self.app.names_for(&self.rules, self.address.ip()))
    }

    async fn handle(
        &self,
        route: &Route,
        handler: Handler,
        key: Key,
        request: Request<Incoming>,
    ) -> Response {
        let (app, client) = (&self.app, self.connection.client);
        let place = match place_of(handler).filter(|_| request.method() != Method::HEAD) {
            None => None,
            Some(kind) => {
                let taken = match kind {
                    // They last.
                    Kind::Stream => app.places.take(kind, client),
                    _ => app.places.take_soon(kind, client).await,
                };
                match taken {
                    Ok(place) => Some(place),
                    Err(busy) => return refuse(route, Refusal::Busy(busy)),
                }
            }
        };
        // Each request allocates memory for the largest of these; so the rare ones are boxed.
        let query = request.uri().query();
        let response = match handler {
            Handler::LegacyLookup => match legacy::lookup::read(app, key, request.uri()) {
                Ok(wanted) => {
                    Ok(legacy::lookup::answer(app, wanted, client, HeaderMap::new(), Instant::now()).await)
                }
                Err(response) => Ok(*response),
            },
            Handler::LegacyDebug => Ok(Box::pin(legacy::debug::answer(app, key)).await),
            Handler::LegacyNagios => Ok(legacy::nagios::answer(app).await),
            Handler::Lookup if request.method() == Method::POST => {
                Box::pin(v1::lookup::many(app, request.into_body(), client, self.hosts())).await
            }
            Handler::Lookup => v1::lookup::one(app, query, client, self.hosts()).await,
            Handler::Mappings => v1::mappings::answer(app, request.method(), query, self.hosts()).await,
            Handler::Events => v1::events::answer(app.clone(), &request, self.hosts()),
            Handler::History => {
                Box::pin(v1::history::answer(app, query, self.address.ip(), self.hosts())).await
            }
            Handler::Auth => {
                let (head, body) = request.into_parts();
                if !body.is_end_stream() {
                    Box::pin(discard(body)).await;
                }
                v1::auth::answer(app, &head.headers, client, &self.hosts()).await
            }
            Handler::OpenApi => Ok(v1::openapi::answer()),
            Handler::Healthz => Ok(v1::health::healthz()),
            Handler::Readyz => v1::health::readyz(app).await,
            Handler::Metrics => Box::pin(v1::metrics::answer(app, request.headers())).await,
        };
        let response = response.unwrap_or_else(Response::from);
        match place {
            Some(place) => response::holding(response, place),
            None => response,
        }
    }
}

/// Reads a body that is ignored: a client that is still sending it could miss the response. What is longer
/// or slower than this is not read to its end.
async fn discard(mut body: Incoming) {
    let read = async {
        let mut left = MAX_DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
            left = rest;
        }
    };
    let _ = timeout(DISCARD_TIME, read).await;
}

/// The kind of the place that each request of a handler needs.
fn place_of(handler: Handler) -> Option<Kind> {
    match handler {
        Handler::Mappings | Handler::Events => Some(Kind::Stream),
        Handler::LegacyDebug => Some(Kind::Debug),
        Handler::Metrics | Handler::LegacyNagios => Some(Kind::Scrape),
        // It depends on the question.
        Handler::Lookup
        | Handler::History
        | Handler::Auth
        | Handler::OpenApi
        | Handler::Healthz
        | Handler::Readyz
        | Handler::LegacyLookup => None,
    }
}

fn refuse(route: &Route, refusal: Refusal) -> Response {
    match route.errors {
        ErrorFormat::Json => v1::error::refuse(refusal),
        ErrorFormat::Legacy => legacy::error::refuse(refusal),
    }
}

fn options(route: &Route) -> Response {
    match route.errors {
        ErrorFormat::Json => response::allowing(response::empty(StatusCode::NO_CONTENT), route.methods),
        // As the Python program answered.
        ErrorFormat::Legacy => response::allowing(response::json_text(StatusCode::OK, ""), "GET"),
    }
}

fn is_header_too_large(route: &Route, request: &Request<Incoming>) -> bool {
    let max_lines = if route.is_forwarded() { MAX_FORWARDED_HEADERS } else { MAX_HEADERS };
    let headers = request.headers();
    // Besides its name and value, a line has a colon, a space and two bytes at its end.
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    headers.len() > max_lines || bytes + path > MAX_HEADER_BYTES
}
