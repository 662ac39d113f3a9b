//! Creates a connection whose source is translated, as a rule for source NAT would.
//!
//! Usage: `create_with_nat PROTOCOL CLIENT:PORT SERVER:PORT PUBLIC:PORT`, for example
//! `create_with_nat tcp 192.168.7.2:40000 198.51.100.1:443 203.0.113.9:50000`. Needs CAP_NET_ADMIN.

use std::net::SocketAddr;
use std::time::Duration;

use nfct::{Conntrack, Protocol, Query, Status, TcpState, Tuple};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, client, server, public] = &arguments[..] else {
        return Err("usage: create_with_nat PROTOCOL CLIENT:PORT SERVER:PORT PUBLIC:PORT".into());
    };
    let (client, server): (SocketAddr, SocketAddr) = (client.parse()?, server.parse()?);
    let public: SocketAddr = public.parse()?;
    let original = Tuple::with_ports(protocol.parse()?, client, server);

    let mut entry = Conntrack::new()?;
    entry.set_original(&original)?.setup_reply()?;
    entry.set_source_nat(public.ip(), Some(public.port()));
    entry.set_status(Status::ASSURED).set_timeout(Duration::from_secs(60));
    if original.protocol == Protocol::Tcp {
        entry.set_tcp_state(TcpState::Established);
    }
    let mut query = Query::open()?;
    query.create(&entry)?;
    match query.get_by_original(&original)? {
        Some(flow) => println!("created {}, replies {}", flow.original, flow.reply),
        None => println!("created, and ended already"),
    }
    Ok(())
}
