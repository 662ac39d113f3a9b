//! What is checked for each recipe.

use std::net::SocketAddr;

use lab::http::Client;
use lab::{Lab, wait_until};

use super::site::{CONFIG, FORGED, RANDOM, application, ask, inside, received_field};
use crate::documents::DAEMON;

const CLIENTS: u16 = 50;

/// A gateway that chooses random public ports, and a site that clients reach at an address outside.
pub(super) fn lab() -> Lab {
    Lab::builder().clients(4).ruleset(RANDOM).build()
}

/// The application gets the inside address of each client that connects to `site`, and the site works without the
/// daemon. `start` starts the web server.
pub(super) fn check<T>(lab: &Lab, site: SocketAddr, start: impl FnOnce() -> T) {
    let application = application(lab);
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let server = start();

    // Two requests on each connection from behind the NAT, one of them with a body.
    let mut kept = Vec::new();
    for number in 0..CLIENTS {
        let from = lab.client_at((number % 4) as u8, 40000 + number);
        let mut client = Client::over(lab.connect(from, site)).expect("it is open");
        assert_eq!(inside(&ask(&mut client)), Some(from));
        let answer = client.request("POST", "/some/path?x=1", &[("Cookie", "a=b")], &[b'x'; 20_000]);
        assert_eq!((inside(&answer), received_field(&answer, "Body")), (Some(from), Some("20000")));
        kept.push((client, from));
    }
    let mut ask_again = {
        let mut index = 0;
        move || {
            index = (index + 1) % kept.len();
            let (client, from) = &mut kept[index];
            // Web servers close idle connections.
            let answer = client.try_request("GET", "/", &FORGED, b"").unwrap_or_else(|_| {
                *client = Client::over(lab.connect(*from, site)).expect("it is open");
                ask(client)
            });
            (inside(&answer), *from)
        }
    };

    // The gateway drops packets for the daemon: the site works after a moment.
    lab.gateway().nft(
        "table ip mute {\n chain input {\n type filter hook input priority 0\n tcp dport 8080 drop\n }\n}\n",
    );
    assert_eq!(ask_again().0, None);
    lab.gateway().nft("delete table ip mute\n");
    wait_until("the gateway answers again", || {
        let (found, from) = ask_again();
        found == Some(from)
    });

    // The daemon stops, then refuses the server, then works again.
    drop(daemon);
    assert_eq!(ask_again().0, None);
    let refusing = DAEMON.start(lab.gateway(), CONFIG.replace("198.51.100.1", "198.51.100.99"));
    assert_eq!(ask_again().0, None);
    refusing.wait_for_line("refused 198.51.100.1");
    drop(refusing);
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    wait_until("the gateway answers again", || {
        let (found, from) = ask_again();
        found == Some(from)
    });
    println!("{CLIENTS} connections through the NAT, {} requests: 0 wrong, 0 missing", 2 * CLIENTS);
    drop((server, application));
}

/// A client that is not behind the gateway.
pub(super) fn check_direct(lab: &Lab, site: SocketAddr) {
    let mut direct = Client::connect(lab.server(), site);
    let answer = ask(&mut direct);
    assert_eq!(inside(&answer), None, "{}", answer.text());
}
