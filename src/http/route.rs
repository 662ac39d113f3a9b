//! The table of routes, and the only place that names a path.
//!
//! Dispatch, the `Allow` headers, the hint of a 404, the metric labels, the format of errors and the
//! test against `doc/openapi.json` use it. A new route is a row in [`ROUTES`], a [`Handler`], and the
//! call of that handler in `dispatch`.

use std::borrow::Cow;

use hyper::Method;
use percent_encoding::percent_decode_str;

/// A row of the table.
#[derive(Debug)]
pub struct Route {
    /// The path as in `doc/openapi.json`: `{name}` stands for one segment that is not empty.
    pub path: &'static str,
    /// The methods, as the `Allow` header lists them: GET comes first.
    pub methods: &'static str,
    /// What the route reveals.
    pub scope: Scope,
    /// The `route` label of its metrics.
    pub label: RouteLabel,
    /// The format of its errors.
    pub errors: ErrorFormat,
    /// What answers; `None` in the rows of paths that do not exist.
    pub handler: Option<Handler>,
}

/// What a route reveals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Mappings that the client can name.
    Lookup,
    /// Mappings of the past, and what an inside host has done.
    History,
    /// All mappings.
    List,
    /// Mappings as they open and close.
    Events,
    /// Counters of the daemon and the gateway.
    Metrics,
    /// Whether the daemon works.
    Health,
    /// Neither mappings nor the state of the daemon: its description, and paths that do not exist.
    General,
}

/// The value of the label `route` in metrics. Routes may share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteLabel {
    /// Legacy lookups, and paths outside `/v1` that do not exist.
    Legacy,
    /// `/v1/lookup`.
    Lookup,
    /// `/v1/auth`.
    Auth,
    /// `/v1/mappings`.
    Mappings,
    /// `/v1/events`.
    Events,
    /// `/v1/history`.
    History,
    /// `/debug`.
    Debug,
    /// `/nagios`.
    Nagios,
    /// `/metrics`.
    Metrics,
    /// `/healthz` and `/readyz`.
    Health,
    /// `/v1/openapi.json`, and paths under `/v1` that do not exist.
    Other,
}

/// The format of a route's errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorFormat {
    /// JSON with `error` and `hint`.
    Json,
    /// As the Python program answered, or a line of plain text.
    Legacy,
}

/// The handler of a route. `dispatch` calls it in a `match`, which needs no boxed future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the handlers' modules")]
pub enum Handler {
    Lookup,
    Mappings,
    Events,
    History,
    Auth,
    OpenApi,
    Healthz,
    Readyz,
    Metrics,
    LegacyDebug,
    LegacyNagios,
    LegacyLookup,
}

const GET: &str = "GET, HEAD, OPTIONS";
const GET_AND_POST: &str = "GET, HEAD, POST, OPTIONS";
/// Some proxies ask with the method of the client's request.
const FORWARDED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
/// The Python program did not list HEAD.
const LEGACY_GET: &str = "GET, OPTIONS";

const fn json(
    path: &'static str,
    methods: &'static str,
    scope: Scope,
    label: RouteLabel,
    handler: Handler,
) -> Route {
    Route { path, methods, scope, label, errors: ErrorFormat::Json, handler: Some(handler) }
}

const fn legacy(path: &'static str, scope: Scope, label: RouteLabel, handler: Handler) -> Route {
    Route { path, methods: LEGACY_GET, scope, label, errors: ErrorFormat::Legacy, handler: Some(handler) }
}

const fn missing(path: &'static str, label: RouteLabel, errors: ErrorFormat) -> Route {
    Route { path, methods: "", scope: Scope::General, label, errors, handler: None }
}

/// All routes. Where two legacy rows fit a path, the first is used.
pub static ROUTES: [Route; 13] = [
    json("/v1/lookup", GET_AND_POST, Scope::Lookup, RouteLabel::Lookup, Handler::Lookup),
    json("/v1/mappings", GET, Scope::List, RouteLabel::Mappings, Handler::Mappings),
    json("/v1/events", GET, Scope::Events, RouteLabel::Events, Handler::Events),
    json("/v1/history", GET, Scope::History, RouteLabel::History, Handler::History),
    json("/v1/auth", FORWARDED, Scope::Lookup, RouteLabel::Auth, Handler::Auth),
    json("/v1/openapi.json", GET, Scope::General, RouteLabel::Other, Handler::OpenApi),
    json("/healthz", GET, Scope::Health, RouteLabel::Health, Handler::Healthz),
    json("/readyz", GET, Scope::Health, RouteLabel::Health, Handler::Readyz),
    json("/metrics", GET, Scope::Metrics, RouteLabel::Metrics, Handler::Metrics),
    legacy("/debug", Scope::List, RouteLabel::Debug, Handler::LegacyDebug),
    legacy("/nagios", Scope::Metrics, RouteLabel::Nagios, Handler::LegacyNagios),
    legacy("/{key_name}/{value}", Scope::Lookup, RouteLabel::Legacy, Handler::LegacyLookup),
    legacy("/{value}", Scope::Lookup, RouteLabel::Legacy, Handler::LegacyLookup),
];

/// Paths under `/v1` that do not exist.
static NOT_FOUND: Route = missing("/v1", RouteLabel::Other, ErrorFormat::Json);
/// Other paths that do not exist.
static LEGACY_NOT_FOUND: Route = missing("", RouteLabel::Legacy, ErrorFormat::Legacy);

/// The row of a request's path.
pub fn find(path: &str) -> &'static Route {
    let rows = |errors| ROUTES.iter().filter(move |route| route.errors == errors);
    let is_row = |route: &&Route| {
        // Most paths differ in the byte behind the slash, which costs less to compare.
        route.path.as_bytes().get(1) == path.as_bytes().get(1)
            && path
                .strip_prefix(route.path)
                .is_some_and(|rest| rest.is_empty() || (route.is_forwarded() && rest.starts_with('/')))
    };
    if let Some(route) = rows(ErrorFormat::Json).find(is_row) {
        return route;
    }
    if path.strip_prefix(NOT_FOUND.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return &NOT_FOUND;
    }
    // The Python program decoded the path first.
    let path = decode(path);
    rows(ErrorFormat::Legacy).find(|route| fits(route.path, &path)).unwrap_or(&LEGACY_NOT_FOUND)
}

/// A path with its percent-encoding decoded.
pub(super) fn decode(path: &str) -> Cow<'_, str> {
    // Almost no path is encoded.
    if path.contains('%') { percent_decode_str(path).decode_utf8_lossy() } else { Cow::Borrowed(path) }
}

/// Whether a path fits a pattern. Byte by byte, because this is part of every legacy lookup.
fn fits(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.as_bytes(), path.as_bytes());
    loop {
        (pattern, path) = match (pattern, path) {
            ([], []) => return true,
            ([b'{', ..], [first, ..]) if *first != b'/' => (after_segment(pattern), after_segment(path)),
            ([expected, pattern @ ..], [found, path @ ..]) if expected == found => (pattern, path),
            _ => return false,
        };
    }
}

fn after_segment(path: &[u8]) -> &[u8] {
    &path[path.iter().position(|byte| *byte == b'/').unwrap_or(path.len())..]
}

impl Route {
    /// Whether proxies forward their clients' requests to this route, or parts of them: any of the
    /// usual methods, many header lines, a path behind the route's own, and a body, which is ignored.
    pub(super) fn is_forwarded(&self) -> bool {
        self.handler == Some(Handler::Auth)
    }

    /// Whether it supports a method. If it supports GET, it supports HEAD, listed or not.
    pub(super) fn supports(&self, method: &Method) -> bool {
        match *method {
            Method::GET | Method::HEAD => self.methods.starts_with("GET"),
            _ => self.methods.split(", ").any(|known| known == method.as_str()),
        }
    }
}

impl RouteLabel {
    /// All of them, each at the index that it converts to.
    pub const ALL: [RouteLabel; 11] = [
        RouteLabel::Legacy,
        RouteLabel::Lookup,
        RouteLabel::Auth,
        RouteLabel::Mappings,
        RouteLabel::Events,
        RouteLabel::History,
        RouteLabel::Debug,
        RouteLabel::Nagios,
        RouteLabel::Metrics,
        RouteLabel::Health,
        RouteLabel::Other,
    ];

    /// The labels of the routes that look up mappings, of now or of the past.
    pub(super) fn lookups() -> impl Iterator<Item = RouteLabel> {
        let looks_up = |label| {
            ROUTES
                .iter()
                .any(|route| route.label == label && matches!(route.scope, Scope::Lookup | Scope::History))
        };
        Self::ALL.into_iter().filter(move |label| looks_up(*label))
    }

    /// The text of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            RouteLabel::Legacy => "legacy",
            RouteLabel::Lookup => "lookup",
            RouteLabel::Auth => "auth",
            RouteLabel::Mappings => "mappings",
            RouteLabel::Events => "events",
            RouteLabel::History => "history",
            RouteLabel::Debug => "debug",
            RouteLabel::Nagios => "nagios",
            RouteLabel::Metrics => "metrics",
            RouteLabel::Health => "health",
            RouteLabel::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_row() {
        for (path, expected, handler) in [
            ("/v1/lookup", "/v1/lookup", Some(Handler::Lookup)),
            ("/v1/lookups", "/v1", None),
            ("/v1/lookup/", "/v1", None),
            ("/v1/auth", "/v1/auth", Some(Handler::Auth)),
            ("/v1/auth/", "/v1/auth", Some(Handler::Auth)),
            ("/v1/auth/shop/basket", "/v1/auth", Some(Handler::Auth)),
            ("/v1/authority", "/v1", None),
            ("/v1", "/v1", None),
            ("/v1/", "/v1", None),
            ("/v1x", "/{value}", Some(Handler::LegacyLookup)),
            ("/readyz", "/readyz", Some(Handler::Readyz)),
            ("/readyz/1", "/{key_name}/{value}", Some(Handler::LegacyLookup)),
            ("/nat_port/1", "/{key_name}/{value}", Some(Handler::LegacyLookup)),
            ("/nat_port%2F1", "/{key_name}/{value}", Some(Handler::LegacyLookup)),
            ("/40001", "/{value}", Some(Handler::LegacyLookup)),
            ("/debug", "/debug", Some(Handler::LegacyDebug)),
            ("/%64ebug", "/debug", Some(Handler::LegacyDebug)),
            ("/nagios", "/nagios", Some(Handler::LegacyNagios)),
            // The Python program's paths only are decoded.
            ("/%76%31/lookup", "/{key_name}/{value}", Some(Handler::LegacyLookup)),
            ("/%6detrics", "/{value}", Some(Handler::LegacyLookup)),
            ("/", "", None),
            ("", "", None),
            ("*", "", None),
            ("//1", "", None),
            ("/nat_port/", "", None),
            ("/debug/", "", None),
            ("/nat_port/1/2", "", None),
        ] {
            let found = find(path);
            assert_eq!((found.path, found.handler), (expected, handler), "{path}");
        }
    }

    #[test]
    fn no_row_hides_another() {
        for route in &ROUTES {
            assert!(std::ptr::eq(find(route.path), route), "{}", route.path);
        }
    }

    #[test]
    fn head_is_supported_where_get_is() {
        let supports = |path: &str, method: &str| find(path).supports(&method.parse().unwrap());
        for (path, others) in [
            ("/v1/lookup", &["POST"][..]),
            ("/debug", &[]),
            ("/1", &[]),
            ("/v1/auth/x", &["POST", "PUT", "PATCH", "DELETE"]),
        ] {
            for method in ["GET", "HEAD", "OPTIONS"] {
                assert!(supports(path, method), "{method} {path}");
            }
            for method in ["POST", "PUT", "PATCH", "DELETE", "GE"] {
                assert_eq!(supports(path, method), others.contains(&method), "{method} {path}");
            }
        }
    }

    #[test]
    fn labels_are_at_their_index() {
        for (index, label) in RouteLabel::ALL.into_iter().enumerate() {
            assert_eq!(label as usize, index);
        }
        assert!(RouteLabel::lookups().eq([
            RouteLabel::Legacy,
            RouteLabel::Lookup,
            RouteLabel::Auth,
            RouteLabel::History
        ]));
    }
}
