//! HAProxy.

use std::fs;

use lab::Lab;

use super::check::{check, check_direct, lab};
use super::site::{WebServer, recipe, require, with_lines};

fn start(lab: &Lab) -> WebServer {
    let directory = WebServer::directory();
    let script = directory.path().join("inside_host.lua");
    fs::write(&script, recipe("lua", "register_action")).expect("it can be written");
    let config = with_lines(
        &recipe("haproxy", "frontend site"),
        "/etc/haproxy/inside_host.lua",
        &script.display().to_string(),
    );
    let path = directory.path().join("haproxy.cfg");
    fs::write(&path, config).expect("it can be written");
    let args = ["-W", "-f", &path.display().to_string()];
    WebServer::start(lab.server(), directory, "haproxy", &args, lab.server_at(80))
}

#[test]
fn haproxy_passes_the_inside_address() {
    if !require("haproxy", "haproxy") {
        return;
    }
    let lab = lab();
    check(&lab, lab.server_at(80), || {
        let server = start(&lab);
        check_direct(&lab, lab.server_at(80));
        server
    });
}
