//! Makes a connection whose source is translated, as a rule of NAT would:
//! `create_with_nat tcp 192.168.7.2:40000 198.51.100.1:443 203.0.113.9:50000`
//! (inside, server, public side).
//!
//! Needs CAP_NET_ADMIN.

use std::net::SocketAddr;
use std::time::Duration;

use nfct::{Conntrack, Layer4, Protocol, Query, Status, TcpState, Tuple};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, inside, server, public] = words.as_slice() else {
        return Err("usage: create_with_nat PROTOCOL INSIDE:PORT SERVER:PORT PUBLIC:PORT".into());
    };
    let (inside, server): (SocketAddr, SocketAddr) = (inside.parse()?, server.parse()?);
    let public: SocketAddr = public.parse()?;
    let original = Tuple {
        src: inside.ip(),
        dst: server.ip(),
        protocol: protocol.parse::<Protocol>()?,
        layer4: Layer4::Ports { src: inside.port(), dst: server.port() },
        zone: 0,
    };

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
        Some(flow) => println!("made {}, answers come as {}", flow.original, flow.reply),
        None => println!("made, and gone already"),
    }
    Ok(())
}
