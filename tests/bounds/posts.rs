//! `POST /v1/lookup`: many lookups with many matches, and many that no index serves.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::observer::observe;
use super::scene::{Scene, amount, crowded, numbered};

const LOOKUP: &str = "/v1/lookup?nat_ip=100.64.8.0&nat_port=10007";

fn post(lookups: &Value) -> String {
    let body = lookups.to_string();
    format!("POST /v1/lookup HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn many_lookups_with_many_matches_are_streamed() {
    let Some(scene) = Scene::new("nat_port") else { return };
    let lookups = amount(150, 1000);
    scene.fill(numbered, 0..1000);
    scene.fill(crowded, 0..1000);
    let question = json!({"nat_ip": "100.64.9.9", "nat_port": 7000, "state": "live"});
    let request = post(&vec![question; lookups].into());
    let (before, lost) = (scene.resident(), scene.losses());
    let (most, answers) = observe(&scene, LOOKUP, "10.0.0.7", || {
        // Some read the answers, the others do not.
        let mut silent = scene.silent(1, 8, &request);
        let bytes = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut client = scene.client(2);
                client.send(request.as_bytes()).unwrap();
                client.read_response("POST").unwrap()
            });
            thread::sleep(amount(Duration::from_secs(2), Duration::from_secs(8)));
            for stream in &mut silent {
                let _ = stream.flush();
                stream.set_nonblocking(true).unwrap();
                let _ = stream.read(&mut [0; 512]);
            }
            reader.join().unwrap()
        });
        drop(silent);
        bytes
    });
    assert_eq!(answers.status, 200);
    let all = answers.json();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), lookups);
    for answer in all {
        assert_eq!(answer["matches"].as_array().unwrap().len(), 1000);
        assert_eq!((&answer["complete"], &answer["ambiguous"]), (&json!(true), &json!(true)));
        assert!(answer["truncated"].is_null());
    }
    // The test itself is another process.
    scene.check_memory(before, most, 0);
    scene.check_losses(lost);
}

#[test]
fn many_lookups_that_no_index_serves_leave_time_for_others_and_end() {
    let Some(scene) = Scene::new("nat_port") else { return };
    let lookups = 1000;
    scene.fill(numbered, 0..amount(50_000, 1_000_000));
    let unindexed: Vec<Value> = (0..lookups).map(|port| json!({"dst_port": 1 + port})).collect();
    let (before, lost) = (scene.resident(), scene.losses());
    let (most, (answers, busy)) = observe(&scene, LOOKUP, "10.0.0.7", || {
        let many = scene.silent(1, 16, &post(&unindexed.clone().into()));
        let mut client = scene.client(2);
        client.stream().set_read_timeout(Some(super::scene::LONG)).unwrap();
        client.send(post(&unindexed.into()).as_bytes()).unwrap();
        let answers = client.read_response("POST").unwrap();
        drop(many);
        (answers, scene.metric("pynatconnd_http_places_refused_total{kind=\"scan\"}"))
    });
    let all = answers.json();
    let all = all.as_array().unwrap();
    // Each has an answer, or an error that says what to do.
    let errors =
        all.iter().filter(|answer| answer["hint"].is_string() && answer["error"].is_string()).count();
    let found = all.iter().filter(|answer| answer["matches"].is_array()).count();
    println!("{found} answers, {errors} errors, {busy} scans refused");
    assert_eq!((all.len(), found + errors), (lookups, lookups));
    scene.check_memory(before, most, 0);
    scene.check_losses(lost);
}
