//! Places: one client that holds as many connections as it can.

use std::time::Duration;

use super::observer::observe;
use super::scene::{Scene, amount, numbered, statuses};

const LOOKUP: &str = "/v1/lookup?nat_ip=100.64.8.0&nat_port=10007";

/// One client opens more connections than the daemon serves, each with this, and holds them.
fn hold(request: &str) {
    let Some(scene) = Scene::new("nat_port") else { return };
    scene.fill(numbered, 0..1000);
    let (before, lost) = (scene.resident(), scene.losses());
    let (most, held) = observe(&scene, LOOKUP, "10.0.0.7", || {
        let mut held = scene.silent(1, 1500, request);
        let rounds = amount(2, 20);
        for _ in 0..rounds {
            // The same client gets health, and replaces what was closed.
            let mut own = scene.client(1);
            assert_eq!(own.get("/healthz").status, 200);
            assert_eq!(own.get("/readyz").status, 200);
            std::thread::sleep(Duration::from_millis(500));
            held.extend(scene.silent(1, 200, request));
        }
        held
    });
    println!("{} connections opened", held.len());
    drop(held);
    scene.check_memory(before, most, 0);
    scene.check_losses(lost);
}

#[test]
fn streams_of_one_client_leave_places_for_others() {
    hold("GET /v1/events HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn slow_headers_of_one_client_leave_places_for_others() {
    hold("GET /v1/lookup HTTP/1.1\r\nHo");
}

#[test]
fn silent_connections_of_one_client_leave_places_for_others() {
    hold("");
}

#[test]
fn lookups_that_wait_leave_places_for_others() {
    hold("GET /v1/lookup?nat_port=1&wait=60000 HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn unfinished_posts_of_one_client_leave_places_for_others() {
    hold("POST /v1/lookup HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n[");
}

#[test]
fn one_client_can_have_most_of_the_places_and_is_told_when_there_are_none() {
    let Some(scene) = Scene::new("nat_port") else { return };
    let held = scene.silent(1, 192, "GET /v1/events HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(statuses(&held, Duration::from_secs(10)).iter().all(|status| *status == Some(200)));
    let refused = scene.client(1).get("/v1/events");
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")));
    let error = refused.json();
    assert_eq!(error["error"], "this client already has 192 streams, the maximum");
    assert!(error["hint"].as_str().unwrap().contains("max_streams"), "{error}");
    // Lookups of the same client go on, and HEAD needs no place.
    assert_eq!(scene.client(1).get("/v1/lookup?nat_port=1").status, 404);
    assert_eq!(scene.client(1).request("HEAD", "/v1/events", &[], b"").status, 200);
    assert!(scene.metric("pynatconnd_http_places{kind=\"stream\"}") >= 192.0);
    assert_eq!(scene.metric("pynatconnd_http_places_refused_total{kind=\"stream\"}"), 1.0);
}
