//! Makes the kernel forget a connection: its next packet is a new connection to the gateway, which
//! its rules may refuse. `close_connection tcp 192.168.7.2:40000 198.51.100.1:443` (inside, server).
//!
//! Needs CAP_NET_ADMIN.

use std::net::SocketAddr;

use nfct::{Layer4, Protocol, Query, Tuple};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, inside, server] = words.as_slice() else {
        return Err("usage: close_connection PROTOCOL INSIDE:PORT SERVER:PORT".into());
    };
    let (inside, server): (SocketAddr, SocketAddr) = (inside.parse()?, server.parse()?);
    let original = Tuple {
        src: inside.ip(),
        dst: server.ip(),
        protocol: protocol.parse::<Protocol>()?,
        layer4: Layer4::Ports { src: inside.port(), dst: server.port() },
        zone: 0,
    };

    let mut query = Query::open()?;
    let flow = query.get_by_original(&original)?.ok_or(format!("there is no connection {original}"))?;
    // A connection that has taken its place meanwhile is left alone.
    match query.delete_flow(&flow)? {
        true => println!("closed {original}"),
        false => println!("{original} has ended by itself"),
    }
    Ok(())
}
