//! Says who is behind a public address and port of this NAT gateway, as a server sees it:
//! `look_up tcp 198.51.100.1:443 100.64.2.1:40001` (the server, then its client).
//!
//! Needs CAP_NET_ADMIN.

use std::net::SocketAddr;

use nfct::{Layer4, Protocol, Query, Tuple};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, server, client] = words.as_slice() else {
        return Err("usage: look_up PROTOCOL SERVER:PORT CLIENT:PORT".into());
    };
    let (server, client): (SocketAddr, SocketAddr) = (server.parse()?, client.parse()?);
    // What the server answers to is the reply direction; the kernel finds the connection by that alone.
    let reply = Tuple {
        src: server.ip(),
        dst: client.ip(),
        protocol: protocol.parse::<Protocol>()?,
        layer4: Layer4::Ports { src: server.port(), dst: client.port() },
        zone: 0,
    };
    match Query::open()?.get_by_reply(&reply)? {
        Some(flow) => println!("{client} is {}", flow.original),
        None => println!("no connection has {client} as its public side"),
    }
    Ok(())
}
