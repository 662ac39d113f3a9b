//! Caddy.

use std::fs;

use super::check::{check, check_direct, lab};
use super::site::{WebServer, recipe, require};

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
        server
    });
}
