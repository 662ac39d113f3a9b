//! `doc/openapi.json` is correct: its examples match its schemas, it describes the routes of the server's table,
//! and every route of a running daemon with real mappings answers as described. `tests/openapi/run.sh` adds
//! generated requests.

use std::collections::BTreeSet;

use jsonschema::Validator;
use lab::http::{Client, Response, Stream};
use lab::{Lab, traffic};
use pynatconnd::http::route::ROUTES;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::binary::DAEMON;

const DOCUMENT: &str = include_str!("../../doc/openapi.json");

/// A path of a route.
fn example_path(route: &str) -> String {
    route.replace("{key_name}", "nat_port").replace("{value}", "40001")
}

const CONFIG: &str = "\
[filter]
dst_ip = 198.51.100.1
dst_port = 443

[data]
key_name = nat_port
del_delay = 3600

[http_server]
host = 0.0.0.0
ip_acl = 198.51.100.1, 127.0.0.1
";

/// The document, and the responses that were compared with it.
struct ApiDescription {
    root: Value,
    /// The responses so far: route, method, status, media type.
    seen: BTreeSet<(String, String, String, String)>,
}

impl ApiDescription {
    fn read() -> Self {
        let root = serde_json::from_str(DOCUMENT).expect("the document is JSON");
        Self { root, seen: BTreeSet::new() }
    }

    /// Resolves references.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').expect("references are local");
                self.resolve(
                    self.root.pointer(pointer).unwrap_or_else(|| panic!("{reference} has no target")),
                )
            }
            None => value,
        }
    }

    /// A validator of one of the document's schemas, which checks formats too.
    fn validator(&self, schema: &Value) -> Validator {
        let mut with_components = json!({ "components": self.root["components"] });
        with_components.as_object_mut().unwrap().extend(schema.as_object().expect("a schema").clone());
        jsonschema::options()
            .should_validate_formats(true)
            .build(&with_components)
            .unwrap_or_else(|error| panic!("{error} in the schema {schema}"))
    }

    fn check(&self, schema: &Value, value: &Value, what: &str) {
        let errors: Vec<_> = self
            .validator(schema)
            .iter_errors(value)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what} differs from the document: {errors:#?}\n{value:#}");
    }

    fn operations(&self) -> impl Iterator<Item = (&String, &String, &Value)> {
        let paths = self.root["paths"].as_object().unwrap().iter();
        paths.flat_map(|(path, methods)| {
            methods.as_object().unwrap().iter().map(move |(method, operation)| (path, method, operation))
        })
    }

    /// The methods of a route. All routes support HEAD and OPTIONS; the Python program's do not list HEAD.
    fn methods(&self, route: &str) -> BTreeSet<String> {
        let operations = self.root["paths"][route].as_object().expect("the route is in the document");
        let others =
            if operations["get"]["tags"][0] == "legacy" { &["OPTIONS"][..] } else { &["HEAD", "OPTIONS"] };
        operations
            .keys()
            .map(|method| method.to_uppercase())
            .chain(others.iter().map(|method| method.to_string()))
            .collect()
    }

    /// Compares a response with the document: status, headers, media type and body.
    fn check_response(&mut self, route: &str, method: &str, response: &Response) {
        // HEAD, and the 405 of every unsupported method, are described with GET.
        let documented = match method.to_lowercase() {
            other if self.root["paths"][route][&other].is_object() => other,
            _ => "get".to_owned(),
        };
        let documented = documented.as_str();
        let what = format!("{method} {route}: {}", response.status);
        let operation = &self.root["paths"][route][documented];
        let expected = self.resolve(&operation["responses"][response.status.to_string()]);
        assert!(expected.is_object(), "{what} is not in the document: {:?}", response.text());

        for (name, header) in expected["headers"].as_object().into_iter().flatten() {
            match response.header(name) {
                Some(value) => self.check(&header["schema"], &json!(value), &format!("{what} {name}")),
                None => assert_ne!(header["required"], true, "{what} lacks {name}"),
            }
        }
        let media_type = response.header("Content-Type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default();
        if let Some(content) = expected["content"].as_object() {
            let described = &content
                .get(media_type)
                .unwrap_or_else(|| panic!("{what} with {media_type:?} is not in the document"));
            let schema = &described["schema"];
            match (method, media_type) {
                ("HEAD", _) => assert!(response.body.is_empty(), "{what} has a body"),
                (_, "application/json") => self.check(schema, &response.json(), &what),
                (_, "application/x-ndjson") => {
                    for line in response.text().lines() {
                        self.check(schema, &serde_json::from_str(line).expect("a line is JSON"), &what);
                    }
                }
                _ => self.check(schema, &json!(response.text()), &what),
            }
        } else {
            assert_eq!((media_type, response.text()), ("", ""), "{what} has a body");
        }
        self.seen.insert((route.into(), documented.into(), response.status.to_string(), media_type.into()));
    }

    /// All documented responses, like `seen`; without a body the media type is `""`.
    fn documented(&self) -> BTreeSet<(String, String, String, String)> {
        let mut all = BTreeSet::new();
        for (path, method, operation) in self.operations() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let content = self.resolve(response)["content"].as_object();
                let types: Vec<_> =
                    content.map_or(vec![""], |types| types.keys().map(String::as_str).collect());
                all.extend(types.iter().map(|media_type| {
                    (path.clone(), method.clone(), status.clone(), media_type.to_string())
                }));
            }
        }
        all
    }
}

/// Calls `on` with every object in `value` and its path.
fn walk<'a>(value: &'a Value, path: &str, on: &mut impl FnMut(&'a Value, &str)) {
    match value {
        Value::Object(fields) => {
            on(value, path);
            fields.iter().for_each(|(name, inner)| walk(inner, &format!("{path}/{name}"), on));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, inner)| walk(inner, &format!("{path}/{index}"), on));
        }
        _ => {}
    }
}

#[test]
fn every_example_matches_its_schema() {
    let document = ApiDescription::read();
    let mut examples = 0;
    walk(&document.root, "", &mut |object, path| {
        // Media types, parameters and headers have both a schema and examples.
        let schema = &object["schema"];
        if !schema.is_object() {
            return;
        }
        let several = object["examples"].as_object().into_iter().flatten();
        let several = several.map(|(name, example)| (name.as_str(), &example["value"]));
        for (name, example) in several.chain(object.get("example").map(|example| ("example", example))) {
            document.check(schema, example, &format!("{path} {name}"));
            examples += 1;
        }
    });
    println!("{examples} examples match their schemas");
    assert!(examples > 50, "{examples}");
}

#[test]
fn every_reference_has_a_target_and_every_component_is_used() {
    let document = ApiDescription::read();
    let mut used = BTreeSet::new();
    walk(&document.root, "", &mut |object, _| {
        if let Some(reference) = object["$ref"].as_str() {
            document.resolve(object);
            used.insert(reference.trim_start_matches('#').to_owned());
        }
    });
    for (kind, components) in document.root["components"].as_object().unwrap() {
        for name in components.as_object().unwrap().keys() {
            assert!(used.contains(&format!("/components/{kind}/{name}")), "nothing uses {kind}/{name}");
        }
    }
}

#[test]
fn every_route_is_described_with_all_its_responses() {
    let document = ApiDescription::read();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in document.operations() {
        let what = format!("{method} {path}");
        assert!(operation["summary"].is_string(), "{what} has no summary");
        assert!(
            ids.insert(operation["operationId"].as_str().expect("an id")),
            "{what} has the id of another"
        );
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = document.resolve(parameter);
            assert!(parameter["description"].is_string(), "{what}: {parameter} is not described");
        }
        // /v1/auth ignores a body.
        let refusals = ["403", "431"]
            .into_iter()
            .chain((method == "get").then_some("405"))
            .chain((path != "/v1/auth").then_some("413"));
        for status in refusals {
            assert!(operation["responses"][status].is_object(), "{what} lacks {status}");
        }
    }
    let documented: BTreeSet<&str> = document.operations().map(|(path, ..)| path.as_str()).collect();
    let known: BTreeSet<&str> = ROUTES.iter().map(|route| route.path).collect();
    assert_eq!(documented, known);
    for route in &ROUTES {
        let methods = route.methods.split(", ").map(str::to_owned).collect();
        assert_eq!(document.methods(route.path), methods, "{}", route.path);
    }
}

#[test]
fn every_route_answers_as_documented() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).build();
    let history = TempDir::with_prefix("pynatconnd-openapi-").expect("a temporary directory can be created");
    let config = format!("{CONFIG}\n[history]\npath = {}\n", history.path().join("history").display());
    let daemon = DAEMON.start(lab.gateway(), config);
    daemon.wait_for_line("the table equals the kernel's");
    let address = daemon.addr_on(lab.public(0));
    let connect = || Client::connect(lab.server(), address);
    let mut document = ApiDescription::read();

    // These streams report the connections that are opened and closed below.
    let open = |accept| Stream::connect(lab.server(), address, "/v1/events", &[("Accept", accept)]);
    let mut lines = open("application/x-ndjson");
    let mut events = open("text/event-stream");
    for (stream, media_type) in [(&lines, "application/x-ndjson"), (&events, "text/event-stream")] {
        assert_eq!(stream.head.header("Content-Type"), Some(media_type));
        document.check_response("/v1/events", "HEAD", &stream.head);
    }

    let server = lab.listen(lab.server_at(443));
    let tcp = lab.connect_to(&server, lab.client_at(0, 40001));
    let udp_server = lab.udp_server(lab.server_at(443));
    let udp = lab.udp_client(lab.client_at(1, 40002));
    traffic::udp_exchange(&udp, &udp_server);
    lab.gateway().run("conntrack", &["-D", "-p", "udp", "--orig-port-src", "40002"]);
    assert_eq!(tcp.peer, (lab.public(0), 40001).into());

    // Every route with GET, HEAD and OPTIONS; with an unsupported method; with a body; with a header that is too
    // large; and from a client that is not allowed.
    let large = "x".repeat(17_000);
    for route in ROUTES.iter().map(|route| route.path) {
        let path = &*example_path(route);
        let methods = document.methods(route);
        let mut client = connect();
        let streams = route == "/v1/events";
        if !streams {
            document.check_response(route, "GET", &client.get(path));
        }
        document.check_response(route, "HEAD", &client.request("HEAD", path, &[], b""));

        let options = client.request("OPTIONS", path, &[], b"");
        assert!(matches!(options.status, 200 | 204) && options.body.is_empty(), "{route}: {options:?}");
        for method in ["DELETE", "PUT", "PATCH", "TRACE", "QUERY", "POST"] {
            if methods.contains(method) {
                continue;
            }
            let refusal = client.request(method, path, &[], b"");
            assert_eq!(refusal.status, 405, "{method} {route}");
            document.check_response(route, method, &refusal);
            let allowed = refusal.header("Allow").unwrap().split(", ").map(str::to_owned).collect();
            assert_eq!(methods, allowed, "{route}");
        }
        for (status, response) in [
            (if route == "/v1/auth" { 204 } else { 413 }, connect().request("GET", path, &[], b"?")),
            (431, connect().request("GET", path, &[("X-Large", &large)], b"")),
            (403, Client::connect(lab.client(), address).request("GET", path, &[], b"")),
        ] {
            assert_eq!(response.status, status, "{route}");
            document.check_response(route, "GET", &response);
        }
    }

    // Responses of some routes only.
    let mut client = connect();
    let gets = [
        ("/v1/lookup", "/v1/lookup?nat_port=40001&protocol=tcp", 200),
        ("/v1/lookup", "/v1/lookup?natport=1", 400),
        ("/v1/lookup", "/v1/lookup?nat_port=1", 404),
        ("/v1/mappings", "/v1/mappings?wait=1", 400),
        ("/v1/events", "/v1/events?state=dead", 400),
        ("/v1/history", "/v1/history?nat_port=40001&at=now&skew=60", 200),
        ("/v1/history", "/v1/history?src_ip=192.168.7.2&from=-1h", 200),
        ("/v1/history", "/v1/history?nat_port=1&at=now", 404),
        ("/v1/history", "/v1/history?nat_port=1&at=yesterday", 400),
        ("/{key_name}/{value}", "/src_port/40001", 400),
        ("/{key_name}/{value}", "/nat_port/abc", 400),
        ("/{key_name}/{value}", "/nat_port/40009", 404),
        ("/{key_name}/{value}", "/nat_port/1/2", 404),
        ("/{value}", "/abc", 400),
        ("/{value}", "/40009", 404),
        ("/{value}", "/", 404),
    ];
    for (route, path, status) in gets {
        let response = client.get(path);
        assert_eq!(response.status, status, "{path}");
        document.check_response(route, "GET", &response);
    }
    let accept = [("Accept", "application/openmetrics-text; version=1.0.0")];
    document.check_response("/metrics", "GET", &client.request("GET", "/metrics", &accept, b""));
    let thousand_and_one = serde_json::to_vec(&vec![json!({}); 1001]).unwrap();
    let posts: [(&[u8], u16); 4] = [
        (br#"[{"nat_port": 40001}, {"nat_port": 1}]"#, 200),
        (br#"[{}, {"natport": 1}]"#, 400),
        (b"[", 400),
        (&thousand_and_one, 413),
    ];
    for (body, status) in posts {
        let response = connect().request("POST", "/v1/lookup", &[], body);
        assert_eq!(response.status, status);
        document.check_response("/v1/lookup", "POST", &response);
    }
    let refused = Client::connect(lab.client(), address).request("POST", "/v1/lookup", &[], b"");
    document.check_response("/v1/lookup", "POST", &refused);
    document.check_response(
        "/v1/lookup",
        "POST",
        &connect().request("POST", "/v1/lookup", &[("X-Large", &large)], b"[]"),
    );

    // /v1/auth, with headers that are valid and not valid.
    let mut headers: Vec<(&str, &str)> = vec![("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "40001")];
    let found = client.request("GET", "/v1/auth", &headers, b"");
    document.check_response("/v1/auth", "GET", &found);
    assert_eq!(found.header("X-Nat-Found"), Some("1"));
    headers[1].1 = "x";
    document.check_response("/v1/auth", "GET", &client.request("GET", "/v1/auth", &headers, b""));
    headers[1].1 = "2";
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let nobody = client.request(method, "/v1/auth/shop", &headers, b"");
        document.check_response("/v1/auth", method, &nobody);
        assert_eq!(nobody.header("X-Nat-Reason"), Some("unknown_port"));
        let large = connect().request(method, "/v1/auth", &[("X-Large", &large)], b"");
        document.check_response("/v1/auth", method, &large);
        let refused = Client::connect(lab.client(), address).request(method, "/v1/auth", &[], b"");
        document.check_response("/v1/auth", method, &refused);
    }

    // The streams: one line per event, and one `data` per event.
    let line_schema = stream_schema(&document, "application/x-ndjson");
    let data_schema = stream_schema(&document, "text/event-stream");
    for expected in ["opened", "opened", "closed"] {
        let line = lines.next_json();
        assert_eq!(line["event"], expected);
        document.check(&line_schema, &line, "a line of /v1/events");
        assert_eq!(events.next_line(), Some(format!("event: {expected}")));
        let data = events.next_line().expect("data follows");
        let data = serde_json::from_str(data.strip_prefix("data: ").expect("data")).unwrap();
        document.check(&data_schema, &data, "data of /v1/events");
        assert_eq!(data, line["mapping"]);
        assert_eq!(events.next_line().as_deref(), Some(""));
    }

    // The hint of a 404 lists the routes under /v1.
    let hint = client.get("/v1/none").json()["hint"].as_str().expect("a hint").to_owned();
    let named: BTreeSet<&str> = hint.split([' ', ',']).filter(|word| word.starts_with("/v1/")).collect();
    let known: BTreeSet<&str> =
        ROUTES.iter().map(|route| route.path).filter(|route| route.starts_with("/v1/")).collect();
    assert_eq!(named, known, "{hint}");

    // The daemon serves the document unchanged.
    assert_eq!(client.get("/v1/openapi.json").text(), DOCUMENT);

    let unseen: Vec<_> = document.documented().difference(&document.seen).cloned().collect();
    // Not possible here: a daemon that cannot follow the kernel, an incomplete table, a body that takes 10 s.
    let rare = |status: &str| matches!(status, "500" | "503" | "408");
    let unseen: Vec<_> = unseen.into_iter().filter(|(_, _, status, _)| !rare(status)).collect();
    assert!(unseen.is_empty(), "documented, but not seen here: {unseen:#?}");
    println!("{} of {} documented responses seen", document.seen.len(), document.documented().len());
    drop(tcp);
}

#[test]
fn responses_of_an_incomplete_table_are_as_documented() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    // The kernel reports no events, so the table is only as new as the last dump.
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    let mut client = Client::connect(lab.server(), daemon.addr_on(lab.public(0)));
    let mut document = ApiDescription::read();
    for (route, path, status) in [
        ("/readyz", "/readyz", 503),
        ("/{value}", "/40001", 503),
        ("/{key_name}/{value}", "/nat_port/1", 503),
    ] {
        let response = client.get(path);
        assert_eq!(response.status, status, "{path}");
        document.check_response(route, "GET", &response);
    }
}

fn stream_schema(document: &ApiDescription, media_type: &str) -> Value {
    document.root["paths"]["/v1/events"]["get"]["responses"]["200"]["content"][media_type]["schema"].clone()
}
