//! Finds the client behind a public address and port of this NAT gateway. The server of the connection
//! sees this address and port as its client.
//!
//! Usage: `look_up PROTOCOL SERVER:PORT PUBLIC:PORT`, for example
//! `look_up tcp 198.51.100.1:443 100.64.2.1:40001`. Needs CAP_NET_ADMIN.

use std::net::SocketAddr;

use nfct::{Query, Tuple};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, server, public] = &arguments[..] else {
        return Err("usage: look_up PROTOCOL SERVER:PORT PUBLIC:PORT".into());
    };
    let (server, public): (SocketAddr, SocketAddr) = (server.parse()?, public.parse()?);
    // The server's packets have the reply tuple. The kernel finds the connection by this tuple alone.
    let reply = Tuple::with_ports(protocol.parse()?, server, public);
    match Query::open()?.get_by_reply(&reply)? {
        Some(flow) => println!("{public} is {}", flow.original),
        None => println!("no connection from {public} to {server}"),
    }
    Ok(())
}
