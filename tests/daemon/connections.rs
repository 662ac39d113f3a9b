//! Connections of HTTP clients: kept open, limited, refused, and closed when a client exceeds a limit.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use lab::http::Client;
use lab::traffic::{self};
use lab::{Lab, wait_within};

use super::usual::{
    LONG, USUAL, exchange, fill, get, limit_files, read_to_end, shrink_buffers, sockets, stalled_client,
    status,
};

#[test]
fn head_is_get_without_the_body() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    fill(&lab, 1000);
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    for path in ["/nat_port/7", "/7", "/nat_port/2000", "/nat_port/x", "/banana/1", "/debug", "/nagios", "/"]
    {
        let mut head_of = |method| {
            let mut response = client.request(method, path, &[], b"");
            // Even GET has the second one only once the body exists.
            let varies = ["date", "transfer-encoding"];
            response.headers.retain(|(name, _)| !varies.contains(&&*name.to_lowercase()));
            (response.status, response.headers)
        };
        let (head, get) = (head_of("HEAD"), head_of("GET"));
        // The statistics have counted a request in between.
        assert!(head == get || path == "/nagios" && head.0 == get.0, "{path}: {head:?} {get:?}");
    }
}

#[test]
fn a_connection_is_kept_for_more_requests() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    let port = client.stream().local_addr().unwrap();
    for path in ["/nat_port/1", "/debug", "/nagios", "/nat_port/x", "/"] {
        assert!(client.get(path).header("Connection").is_none_or(|value| value == "keep-alive"), "{path}");
    }
    assert_eq!(client.stream().local_addr().unwrap(), port);

    // Two pipelined requests get their responses in order.
    client
        .send(b"GET /nat_port/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /debug HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    assert_eq!(client.read_response("GET").unwrap().text(), "Not found");
    assert_eq!(client.read_response("GET").unwrap().text(), "{}");

    let last = client.request("GET", "/nat_port/1", &[("Connection", "close")], b"");
    assert_eq!(last.header("Connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn http_1_0_gets_a_complete_response_and_a_closed_connection() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    fill(&lab, 1000);
    let answer = exchange(&lab, &daemon, b"GET /nat_port/7 HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\n}"), "{answer}");
    // The length is not known at the start, and HTTP/1.0 has no chunks.
    let answer = exchange(&lab, &daemon, b"GET /debug HTTP/1.0\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_lowercase().contains("chunked"), "{head}");
    let table: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(table.as_object().unwrap().len(), 1000);
}

#[test]
fn too_many_or_too_long_headers_are_refused() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    let request = |lines: &str| {
        let text = format!("GET /debug HTTP/1.1\r\n{lines}Connection: close\r\n\r\n");
        exchange(&lab, &daemon, text.as_bytes()).lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(request(&"X: y\r\n".repeat(31)), "HTTP/1.1 200 OK");
    assert_eq!(request(&"X: y\r\n".repeat(32)), "HTTP/1.1 431 Request Header Fields Too Large");
    let long = |length| format!("X: {}\r\n", "y".repeat(length));
    assert_eq!(request(&long(15 * 1024)), "HTTP/1.1 200 OK");
    assert_eq!(request(&long(17 * 1024)), "HTTP/1.1 431 Request Header Fields Too Large");
    // The path counts too.
    let path = "9".repeat(17 * 1024);
    let answer = exchange(&lab, &daemon, format!("GET /{path} HTTP/1.1\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 414 "), "{answer}");
    assert!(exchange(&lab, &daemon, b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
}

#[test]
fn a_request_with_a_body_is_refused() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    let connect = || Client::connect(lab.gateway(), daemon.local_addr());
    assert_eq!(connect().request("GET", "/nat_port/1", &[], b"{}").status, 413);
    assert_eq!(connect().request("HEAD", "/debug", &[], b"{}").status, 413);
    let answer = exchange(
        &lab,
        &daemon,
        b"GET /debug HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // An empty body is no body.
    assert_eq!(connect().request("GET", "/debug", &[("Content-Length", "0")], b"").status, 200);
    assert_eq!(connect().request("POST", "/debug", &[], b"{}").status, 405);
}

#[test]
fn idle_clients_are_disconnected() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    let start = Instant::now();
    let connect = || Client::connect(lab.gateway(), daemon.local_addr());
    let [silent, mut half, mut idle, mut slow] = [connect(), connect(), connect(), connect()];
    half.send(b"GET /debug HTTP/1.1\r\nHost").unwrap();
    assert_eq!(idle.get("/debug").status, 200);
    thread::scope(|scope| {
        for (client, name) in [(&silent, "silent"), (&half, "half"), (&idle, "idle")] {
            scope.spawn(move || {
                read_to_end(client.stream());
                // The daemon's timeout starts after the connection.
                assert!(start.elapsed() >= Duration::from_secs(5), "{name}: {:?}", start.elapsed());
            });
        }
        // Single bytes do not count as a request.
        scope.spawn(|| {
            slow.stream().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            slow.send(b"GET /debug HTTP/1.1\r\n").unwrap();
            wait_within(LONG, "the slow client is closed", || {
                slow.send(b"X").is_err()
                    || match slow.stream().read(&mut [0; 256]) {
                        Ok(length) => length == 0,
                        Err(error) => error.kind() == ErrorKind::ConnectionReset,
                    }
            });
        });
    });
    assert_eq!(status(&lab, &daemon, "/debug"), 200);
}

#[test]
fn beyond_the_limit_the_connection_that_is_idle_for_the_longest_time_is_closed() {
    if !lab::require() {
        return;
    }
    /// What one client can have of 1,024 connections.
    const MOST: usize = 768;
    limit_files(std::process::id(), "8192");
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    limit_files(daemon.pid(), "8192");
    // This waits for the first dump. During it only some of many lookups may wait; the others get 503.
    assert_eq!(status(&lab, &daemon, "/nat_port/1"), 404);
    let request = b"GET /nat_port/1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let connect = || {
        let mut stream = TcpStream::connect(daemon.local_addr()).unwrap();
        traffic::bound(&stream).unwrap();
        stream.write_all(request).unwrap();
        stream
    };
    let read = |mut stream: &TcpStream| {
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 404");
    };
    let first: Vec<TcpStream> = lab.gateway().enter(|| (0..3).map(|_| connect()).collect());
    first.iter().for_each(read);
    let open: Vec<TcpStream> = lab.gateway().enter(|| (3..MOST).map(|_| connect()).collect());
    // All are served at the same time.
    open.iter().for_each(read);
    let late: Vec<TcpStream> = lab.gateway().enter(|| (0..3).map(|_| connect()).collect());
    late.iter().for_each(read);
    let is_closed = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let closed = stream.read_to_end(&mut Vec::new()).is_ok();
        stream.set_nonblocking(false).unwrap();
        closed
    };
    wait_within(LONG, "the oldest connections are closed", || first.iter().all(is_closed));
    // On a very slow machine the others have timed out by now.
    let evicted = || {
        let metrics = get(&lab, &daemon, "/metrics").text().to_owned();
        let line = metrics.lines().find(|line| line.starts_with("pynatconnd_http_evicted_total"));
        line.and_then(|line| line.rsplit(' ').next()).unwrap().parse::<u64>().unwrap()
    };
    assert!((3..=8).contains(&evicted()), "{}", evicted());
}

#[test]
fn a_client_that_does_not_read_is_disconnected_and_blocks_nobody() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    shrink_buffers(&lab);
    let daemon = USUAL.start(&lab);
    // The request that tested whether it responds may still have a socket.
    let most = sockets(&daemon);
    fill(&lab, 3000);
    let complete = get(&lab, &daemon, "/debug").body.len();
    let start = Instant::now();
    let stuck: Vec<TcpStream> = (0..8).map(|_| stalled_client(&lab, &daemon)).collect();
    for port in 1..=100 {
        assert_eq!(status(&lab, &daemon, &format!("/nat_port/{port}")), 200);
    }
    assert_eq!(get(&lab, &daemon, "/debug").json().as_object().unwrap().len(), 3000);

    wait_within(LONG, "the clients that do not read are disconnected", || sockets(&daemon) <= most);
    assert!(start.elapsed() >= Duration::from_secs(10), "{:?}", start.elapsed());
    for stream in &stuck {
        let read = read_to_end(stream);
        assert!(read.len() < complete && !read.ends_with(b"0\r\n\r\n"), "{} of {complete} bytes", read.len());
    }
    assert_eq!(status(&lab, &daemon, "/nat_port/1"), 200);
}

#[test]
fn the_daemon_survives_a_lack_of_descriptors() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    limit_files(daemon.pid(), "40:");
    let open: Vec<_> = (0..60).map(|_| Client::connect(lab.gateway(), daemon.local_addr())).collect();
    daemon.wait_for_line("cannot accept a connection");
    drop(open);
    for _ in 0..60 {
        assert_eq!(status(&lab, &daemon, "/nat_port/1"), 404);
    }
}
