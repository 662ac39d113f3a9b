//! `/v1/events`: subscribers that never read.

use std::time::Duration;

use super::observer::{measure, observe_after};
use super::scene::{Scene, amount, numbered, statuses};

const LOOKUP: &str = "/v1/lookup?nat_ip=100.64.8.0&nat_port=10007";

#[test]
fn subscribers_that_never_read_cost_little_memory_and_no_event() {
    let Some(scene) = Scene::new("nat_port") else { return };
    let (subscribers, flows) = (amount(200, 1000), amount(30_000, 1_000_000));
    scene.fill(numbered, 0..1000);
    // What the table itself needs, and what the traffic costs, is measured without subscribers.
    let empty = scene.resident();
    let usual = measure(&scene, LOOKUP, "10.0.0.7", || scene.fill(numbered, 1000..flows)).0;
    let table = scene.resident() - empty.min(scene.resident());
    drop(scene);

    let Some(scene) = Scene::new("nat_port") else { return };
    scene.fill(numbered, 0..1000);
    let (before, lost) = (scene.resident(), scene.losses());
    let (most, streams) = observe_after(&scene, LOOKUP, "10.0.0.7", usual, || {
        let streams = scene.silent(1, subscribers, "GET /v1/events HTTP/1.1\r\nHost: a\r\n\r\n");
        let opened = statuses(&streams, Duration::from_secs(10));
        let served = opened.iter().filter(|status| **status == Some(200)).count();
        let refused = opened.iter().filter(|status| **status == Some(503)).count();
        println!("{subscribers} subscribers: {served} served, {refused} refused");
        assert_eq!((served, refused), (subscribers.min(192), subscribers.saturating_sub(192)));
        scene.fill(numbered, 1000..flows);
        streams
    });
    scene.check_losses(lost);
    drop(streams);
    scene.check_memory(before, most, table);
}
