//! The servers that the daemon is compared with, and wrk, the client that loads them.

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use lab::Netns;

use super::bare;
use super::peers::Peer;

/// The address of nginx.
const NGINX: &str = "127.0.0.1:8081";

/// An nginx that returns one fixed body.
pub struct Nginx {
    child: Child,
    /// Its configuration and its temporary files.
    _directory: TempDir,
}

impl Nginx {
    /// Starts it in a namespace with this number of workers and waits until it responds.
    pub fn start(netns: &Netns, workers: usize, body: &str) -> Result<Self, String> {
        let directory =
            TempDir::with_prefix("pynatconnd-nginx-").expect("a temporary directory can be created");
        let path = directory.path().join("nginx.conf");
        // As root, so that it can use the directory. It uses no file after the start.
        let config = format!(
            "user root;\ndaemon off;\npid {prefix}/pid;\nerror_log stderr crit;\nworker_processes {workers};\n\
             events {{ worker_connections 1024; }}\n\
             http {{\naccess_log off;\nkeepalive_requests 1000000000;\ndefault_type application/json;\n\
             client_body_temp_path {prefix}/body;\nproxy_temp_path {prefix}/proxy;\n\
             fastcgi_temp_path {prefix}/fastcgi;\nuwsgi_temp_path {prefix}/uwsgi;\n\
             scgi_temp_path {prefix}/scgi;\n\
             server {{ listen {NGINX}; location / {{ return 200 '{body}'; }} }}\n}}\n",
            prefix = directory.path().display(),
        );
        fs::write(&path, config).expect("the directory belongs to this user");
        let command = netns.command("nginx").arg("-c").arg(&path).stdin(Stdio::null());
        let child = command.spawn().map_err(|error| format!("nginx cannot be started: {error}"))?;
        let nginx = Self { child, _directory: directory };
        lab::wait_until("nginx answers", || lab::http::Client::try_connect(netns, nginx.address()).is_ok());
        Ok(nginx)
    }

    pub fn address(&self) -> SocketAddr {
        NGINX.parse().expect("it is an address")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGKILL would leave its workers.
        if let Ok(pid) = self.child.id().try_into() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// A server of nothing but hyper and tokio, in a process of its own.
pub struct BareServer(Child);

impl BareServer {
    /// Starts it in a namespace, with one worker for each processor that it may use, and waits until it responds.
    pub fn start(netns: &Netns, body: &str) -> Self {
        let server = Self(Peer::Server.start_with(netns, &[body]));
        lab::wait_until("the bare server answers", || {
            lab::http::Client::try_connect(netns, server.address()).is_ok()
        });
        server
    }

    pub fn address(&self) -> SocketAddr {
        bare::ADDRESS.parse().expect("it is an address")
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The figures of wrk.
pub struct Served {
    /// Responses per second.
    pub rate: f64,
    /// The median and the 99th percentile of the response time, in milliseconds.
    pub median: f64,
    pub p99: f64,
}

/// Requests a path with a random port of a range at its end, and a random number up to the third argument in place of `*`;
/// prints one line of JSON at the end.
const SCRIPT: &str = r#"
local count = 0
function setup(thread)
  count = count + 1
  thread:set("seed", count)
end
function init(args)
  math.randomseed(seed)
  requests = {}
  for at = 1, 16384 do
    local path = args[4]:gsub("*", math.random(tonumber(args[3])))
    requests[at] = wrk.format("GET", path .. math.random(tonumber(args[1]), tonumber(args[2])))
  end
  at = 0
end
function request()
  at = at % 16384 + 1
  return requests[at]
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('{"answers":%d,"micros":%d,"p50":%d,"p99":%d,"errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"#;

/// What is looked up: a path before a port, in which `*` is a number from 1 to this one.
pub struct Path(pub &'static str, pub u32);

/// The route of the Python version.
pub const LEGACY: Path = Path("/nat_port/", 1);

/// Loads a server with lookups over this number of persistent connections, with `threads` threads of wrk.
pub fn wrk(
    netns: &Netns,
    address: SocketAddr,
    threads: usize,
    connections: usize,
    path: &Path,
    ports: &Range<u16>,
    time: Duration,
) -> Result<Served, String> {
    let directory = TempDir::with_prefix("pynatconnd-wrk-").expect("a temporary directory can be created");
    let script = directory.path().join("lookup.lua");
    fs::write(&script, SCRIPT).expect("the directory belongs to this user");
    let command = netns
        .command("wrk")
        .arg(format!("-t{threads}"))
        .arg(format!("-c{connections}"))
        .arg(format!("-d{}s", time.as_secs()))
        .arg("-s")
        .arg(&script)
        .arg(format!("http://{address}"))
        .args(["--".to_owned(), ports.start.to_string(), (ports.end - 1).to_string()])
        .args([path.1.to_string(), path.0.to_owned()]);
    let output = command.output().map_err(|error| format!("wrk cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.starts_with('{'));
    let line = line.ok_or_else(|| format!("wrk printed no result: {text}{complaint}"))?;
    let result: Value = serde_json::from_str(line).map_err(|error| format!("{error} in {line:?}"))?;
    let number = |name: &str| result[name].as_f64().unwrap_or(f64::NAN);
    assert_eq!(result["errors"], 0, "http://{address}: every answer is a hit");
    Ok(Served {
        rate: number("answers") * 1e6 / number("micros"),
        median: number("p50") / 1e3,
        p99: number("p99") / 1e3,
    })
}
