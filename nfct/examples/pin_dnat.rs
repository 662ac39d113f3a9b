//! Pins one client connection to a server behind the gateway: creates an entry with destination NAT
//! before the first packet arrives, whatever the NAT rules say, and creates it again when it ends. The
//! entry has a fixed timeout, so it stays while the client is idle, and it stays after this program has
//! stopped; the example `close_connection` removes it. (A TCP client that uses its port again within
//! milliseconds may be faster than the new entry.) The gateway must have a NAT chain, even an empty one:
//! `nft 'add table ip nat; add chain ip nat prerouting { type nat hook prerouting priority dstnat; }'`
//!
//! Usage: `pin_dnat PROTOCOL CLIENT:PORT PUBLIC:PORT SERVER:PORT`, for example
//! `pin_dnat udp 198.51.100.1:40000 203.0.113.9:5060 192.168.7.2:5060`. Needs CAP_NET_ADMIN.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use nfct::{
    Conntrack, EventKind, Events, Flow, Groups, Notification, Protocol, Query, Status, TcpState, Tuple,
};

const TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pin_dnat: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, client, public, server] = &arguments[..] else {
        return Err("usage: pin_dnat PROTOCOL CLIENT:PORT PUBLIC:PORT SERVER:PORT".into());
    };
    let original = Tuple::with_ports(protocol.parse()?, address(client)?, address(public)?);
    let server = address(server)?;

    let mut entry = Conntrack::new()?;
    entry.set_original(&original)?.setup_reply()?;
    entry.set_destination_nat(server.ip(), Some(server.port()));
    entry.set_status(Status::ASSURED | Status::FIXED_TIMEOUT).set_timeout(TIMEOUT);
    if original.protocol == Protocol::Tcp {
        entry.set_tcp_state(TcpState::SynSent);
    }

    // Listen first, so that no end of the entry is missed.
    let events = Events::subscribe(Groups::DESTROY)?;
    let mut query = Query::open()?;
    let mut pinned = pin(&mut query, &entry, &original)?;
    for notification in events {
        let ended = match notification? {
            Notification::Event(event) => {
                event.kind == EventKind::Destroy
                    && (event.flow.id, event.flow.original) == (pinned.id, original)
            }
            // The event of its end may be lost.
            Notification::Recovered { .. } => {
                query.get_by_original(&original)?.is_none_or(|flow| flow.id != pinned.id)
            }
            _ => false,
        };
        if ended {
            pinned = pin(&mut query, &entry, &original)?;
        }
    }
    Ok(())
}

/// Creates the entry. One that packets have created meanwhile does not have this NAT, and is removed.
fn pin(query: &mut Query, entry: &Conntrack, original: &Tuple) -> Result<Flow, Box<dyn Error>> {
    if let Some(flow) = query.get_by_original(original)? {
        query.delete_flow(&flow)?;
    }
    query.create(entry)?;
    let flow = query.get_by_original(original)?.ok_or("the new entry has ended already")?;
    println!("pinned {}, replies {}", flow.original, flow.reply);
    Ok(flow)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("found {text:?}, expected an address and a port, such as 192.168.7.2:5060"))
}
