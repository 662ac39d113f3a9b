//! `/v1/auth`: the client that the headers name, and whether another one could be meant.

use lab::Lab;
use lab::http::Client;
use nfct::Protocol;

use super::setup::{TestConnection, client, ctnetlink, make_connections, start_daemon};

/// The headers of a response.
#[derive(Debug, Clone, Default, PartialEq)]
struct AuthAnswer {
    found: Option<String>,
    src_ip: Option<String>,
    src_port: Option<String>,
    zone: Option<String>,
    ambiguous: Option<String>,
    reason: Option<String>,
    error: Option<String>,
}

impl AuthAnswer {
    fn in_zone(self, zone: &str) -> Self {
        Self { zone: Some(zone.to_owned()), ..self }
    }
}

fn ask(client: &mut Client, headers: &[(&str, &str)]) -> AuthAnswer {
    let answer = client.request("GET", "/v1/auth", headers, b"");
    assert_eq!((answer.status, answer.body.len()), (204, 0), "{headers:?}");
    let header = |name| answer.header(name).map(str::to_owned);
    AuthAnswer {
        found: header("X-Nat-Found"),
        src_ip: header("X-Nat-Src-Ip"),
        src_port: header("X-Nat-Src-Port"),
        zone: header("X-Nat-Zone"),
        ambiguous: header("X-Nat-Ambiguous"),
        reason: header("X-Nat-Reason"),
        error: header("X-Nat-Error"),
    }
}

fn found(ip: &str, port: &str, ambiguous: &str) -> AuthAnswer {
    let [found, src_ip, src_port, ambiguous] = ["1", ip, port, ambiguous].map(|value| Some(value.to_owned()));
    AuthAnswer { found, src_ip, src_port, ambiguous, ..AuthAnswer::default() }
}

fn nobody(reason: &str) -> AuthAnswer {
    AuthAnswer { found: Some("0".into()), reason: Some(reason.into()), ..AuthAnswer::default() }
}

#[test]
fn auth_responds_in_headers_and_never_with_an_error_status() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    make_connections(&mut ctnetlink(&lab), &mut client);
    let live = [("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "50002")];
    let answer = client.request("GET", "/v1/auth", &live, b"");
    assert_eq!((answer.header("X-Nat-Found"), answer.header("X-Nat-Complete")), (Some("1"), Some("1")));
    let answer = client.request("GET", "/v1/auth", &live[..1], b"");
    assert_eq!((answer.header("X-Nat-Found"), answer.header("X-Nat-Complete")), (Some("0"), None));
    let mut ask = |headers: &[(&str, &str)]| ask(&mut client, headers);

    // A live mapping; a closed one; IPv6; an IPv4-mapped address; none.
    let one = [("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "50002")];
    assert_eq!(ask(&one), found("192.168.7.2", "40003", "0"));
    assert_eq!(ask(&[one[0], ("X-Real-Port", "50009")]), found("192.168.7.9", "40009", "0"));
    assert_eq!(
        ask(&[("X-Real-IP", "2001:db8::2"), ("X-Real-Port", "50004")]),
        found("fd00:7::2", "40005", "0")
    );
    assert_eq!(ask(&[("X-Real-IP", "::ffff:100.64.2.1"), one[1]]), found("192.168.7.2", "40003", "0"));
    assert_eq!(ask(&[one[0], ("X-Real-Port", "50008")]), nobody("unknown_port"));
    // A ping is not a client of a web server.
    assert_eq!(ask(&[one[0], ("X-Real-Port", "77")]), nobody("other_server"));

    // Three share a port: the response has the newest and says that there are others. The destination, which is the
    // real server's, tells them apart.
    let shared = [("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "50001")];
    assert_eq!(ask(&shared), found("192.168.7.2", "40001", "1").in_zone("5"));
    let to = |ip, port| [shared[0], shared[1], ("X-Dst-IP", ip), ("X-Dst-Port", port)];
    assert_eq!(ask(&to("198.51.100.2", "443")), found("192.168.7.3", "40002", "0"));
    // Two tenants in two zones have the same address and port.
    assert_eq!(ask(&to("198.51.100.1", "443")), found("192.168.7.2", "40001", "1").in_zone("5"));
    let in_zone = |zone| [shared[0], shared[1], ("X-Dst-IP", "198.51.100.1"), ("X-Zone", zone)];
    assert_eq!(ask(&in_zone("5")), found("192.168.7.2", "40001", "0").in_zone("5"));
    assert_eq!(ask(&in_zone("0")), found("192.168.7.2", "40001", "0"));
    assert_eq!(ask(&in_zone("6")), nobody("other_server"));
    assert_eq!(ask(&to("198.51.100.2", "80")), nobody("other_server"));
    assert_eq!(
        ask(&[shared[0], shared[1], ("X-Dst-IP", "198.51.100.2")]),
        found("192.168.7.3", "40002", "0")
    );
    let behind = [("X-Real-IP", "100.64.2.2"), ("X-Real-Port", "50003"), ("X-Dst-IP", "198.51.100.1")];
    assert_eq!(ask(&behind), found("192.168.7.2", "40004", "0"));
    assert_eq!(ask(&[behind[0], behind[1], ("X-Dst-IP", "203.0.113.9")]), nobody("other_server"));

    // A client that is not behind the gateway.
    assert_eq!(ask(&[("X-Real-IP", "203.0.113.9"), one[1]]), nobody("unknown_address"));
    assert_eq!(ask(&[("X-Real-IP", "2001:db8::9"), one[1]]), nobody("unknown_address"));

    // Errors are reported in a header.
    for (headers, error) in [
        (&[][..], "X-Real-IP is missing"),
        (&[one[1]], "X-Real-IP is missing"),
        (&[one[0]], "X-Real-Port is missing"),
        (&[("X-Real-IP", "unix:"), one[1]], "x-real-ip: expected an IP address"),
        (&[("X-Real-IP", "100.64.2.0/24"), one[1]], "x-real-ip: expected an IP address"),
        (&[one[0], ("X-Real-Port", "65536")], "x-real-port: expected a port"),
        (&[one[0], ("X-Real-Port", "")], "x-real-port: expected a port"),
        (&[one[0], one[1], ("X-Dst-IP", "gateway")], "x-dst-ip: expected an IP address"),
        (&[one[0], one[1], ("X-Dst-Port", "https")], "x-dst-port: expected a port"),
        (&[one[0], one[1], ("X-Zone", "65536")], "x-zone: expected a conntrack zone, 0 to 65535"),
        (
            &[one[0], one[1], ("X-Protocol", "quic")],
            "x-protocol: expected tcp, udp, or nginx's $server_protocol such as HTTP/1.1",
        ),
    ] {
        let expected =
            AuthAnswer { found: Some("0".into()), error: Some(error.into()), ..AuthAnswer::default() };
        assert_eq!(ask(headers), expected, "{headers:?}");
    }
}

#[test]
fn a_request_that_a_proxy_forwards_is_answered_whatever_its_client_sent() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let mut query = ctnetlink(&lab);
    TestConnection::new(Protocol::Tcp, "192.168.7.2:40001", "198.51.100.1:443", "100.64.2.1:50001")
        .create(&mut query);
    let mut connection = client(&lab, &daemon);
    let names: Vec<String> = (0..98).map(|number| format!("X-Field-{number}")).collect();
    let mut headers = vec![("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "50001")];
    headers.extend(names.iter().map(|name| (name.as_str(), "of the client")));
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
        for path in ["/v1/auth", "/v1/auth/", "/v1/auth/shop/basket?nat_port=1&x"] {
            let answer = connection.request(method, path, &headers[..99], b"");
            let found = (answer.status, answer.header("X-Nat-Src-Ip"), answer.header("X-Nat-Src-Port"));
            assert_eq!(found, (204, Some("192.168.7.2"), Some("40001")), "{method} {path}");
        }
    }
    // A body is ignored.
    for body in [&b"?"[..], &[b'x'; 100_000]] {
        let answer = client(&lab, &daemon).request("POST", "/v1/auth/upload", &headers[..2], body);
        assert_eq!((answer.status, answer.header("X-Nat-Src-Ip")), (204, Some("192.168.7.2")));
    }
    // With Host there are 101 lines.
    let answer = connection.request("GET", "/v1/auth", &headers, b"");
    assert_eq!(answer.status, 431, "{}", answer.text());
    let metrics = client(&lab, &daemon).get("/metrics");
    assert!(metrics.text().contains("pynatconnd_auth_not_found_total{reason=\"other_server\"} 0\n"));
}

#[test]
fn two_hosts_that_share_a_port_are_told_apart_by_the_protocol() {
    use Protocol::{Tcp, Udp};
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    // One public port and one server for HTTP/1.1 or HTTP/2 over TCP, and for HTTP/3 over UDP.
    let tcp = TestConnection::new(Tcp, "192.168.7.2:40001", "198.51.100.1:443", "100.64.2.1:50001");
    let udp = TestConnection::new(Udp, "192.168.7.3:40002", "198.51.100.1:443", "100.64.2.1:50001");
    tcp.create(&mut query);
    udp.create(&mut query);
    let base = [
        ("X-Real-IP", "100.64.2.1"),
        ("X-Real-Port", "50001"),
        ("X-Dst-IP", "198.51.100.1"),
        ("X-Dst-Port", "443"),
    ];
    let mut with = |protocol: Option<&str>| {
        let headers: Vec<_> =
            base.into_iter().chain(protocol.map(|protocol| ("X-Protocol", protocol))).collect();
        ask(&mut client, &headers)
    };
    assert_eq!(with(None), found("192.168.7.2", "40001", "1"));
    for protocol in ["tcp", "TCP", "HTTP/1.0", "HTTP/1.1", "http/2.0"] {
        assert_eq!(with(Some(protocol)), found("192.168.7.2", "40001", "0"), "{protocol}");
    }
    for protocol in ["udp", "HTTP/3.0", "http/3.0"] {
        assert_eq!(with(Some(protocol)), found("192.168.7.3", "40002", "0"), "{protocol}");
    }
    // A live mapping excludes a closed one; two closed ones do not exclude each other.
    tcp.delete(&mut query);
    assert_eq!(with(None), found("192.168.7.3", "40002", "0"));
    udp.delete(&mut query);
    assert_eq!(with(None), found("192.168.7.2", "40001", "1"));
    assert_eq!(with(Some("HTTP/3.0")), found("192.168.7.3", "40002", "0"));
}

#[test]
fn ambiguous_means_that_the_answer_could_be_another_one() {
    use Protocol::Tcp;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    let make = |query: &mut _, src: &str, server: u8, port: u16| {
        let made =
            TestConnection::new(Tcp, src, &format!("198.51.100.{server}:443"), &format!("100.64.2.1:{port}"));
        made.create(query);
        made
    };
    let mut at =
        |port: u16| ask(&mut client, &[("X-Real-IP", "100.64.2.1"), ("X-Real-Port", &port.to_string())]);
    // One socket's connections to two servers: whichever is meant, the answer is the same.
    make(&mut query, "192.168.7.2:40001", 1, 50001);
    make(&mut query, "192.168.7.2:40001", 2, 50001);
    assert_eq!(at(50001), found("192.168.7.2", "40001", "0"));
    // The host is the same, but its port is not.
    make(&mut query, "192.168.7.2:40002", 3, 50001);
    assert_eq!(at(50001), found("192.168.7.2", "40002", "1"));

    // More connections than one lookup collects: the live one is found among the closed ones, and the answer says
    // that not all were compared.
    make(&mut query, "192.168.7.4:40004", 1, 50002);
    for number in 0..1_100_u16 {
        let [high, low] = number.to_be_bytes();
        let src = format!("10.1.{high}.{low}:40005");
        make(&mut query, &src, 2, 50002).delete(&mut query);
    }
    assert_eq!(at(50002), found("192.168.7.4", "40004", "1"));
}
