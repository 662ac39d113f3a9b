//! Caddy.

use std::fs;

use lab::http::Client;

use super::check::{check, check_direct, lab};
use super::site::{WebServer, inside, recipe, require};

#[test]
fn caddy_passes_the_inside_address() {
    if !require("caddy", "caddy") {
        return;
    }
    let lab = lab();
    let site = lab.server_at(80);
    check(&lab, site, || {
        let directory = WebServer::directory();
        let path = directory.path().join("Caddyfile");
        // Without its port for administration.
        let config = format!("{{\n\tadmin off\n}}\n{}", recipe("caddy", "reverse_proxy"));
        fs::write(&path, config).expect("it can be written");
        let args = ["run", "--config", &path.display().to_string(), "--adapter", "caddyfile"];
        let server = WebServer::start(lab.server(), directory, "caddy", &args, site);
        check_direct(&lab, site);
        // With a large header, and cookies that the daemon does not get.
        let from = lab.client_at(0, 39_999);
        let mut client = Client::over(lab.connect(from, site)).expect("it is open");
        let names: Vec<String> = (0..80).map(|number| format!("X-Field-{number}")).collect();
        let (value, cookie) = ("x".repeat(100), "x".repeat(15_000));
        let fields = names.iter().map(|name| (name.as_str(), value.as_str()));
        let fields: Vec<_> = fields.chain([("Cookie", cookie.as_str())]).collect();
        assert_eq!(inside(&client.request("GET", "/", &fields, b"")), Some(from));
        server
    });
}
