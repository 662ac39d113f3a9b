//! Removes the entry of one connection, named as its client sends it. The gateway treats the next packet
//! as the start of a new connection, which its rules can refuse.
//!
//! Usage: `close_connection PROTOCOL CLIENT:PORT SERVER:PORT`, for example
//! `close_connection tcp 192.168.7.2:40000 198.51.100.1:443`. Needs CAP_NET_ADMIN.

use std::net::SocketAddr;

use nfct::{Query, Tuple};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, client, server] = &arguments[..] else {
        return Err("usage: close_connection PROTOCOL CLIENT:PORT SERVER:PORT".into());
    };
    let (client, server): (SocketAddr, SocketAddr) = (client.parse()?, server.parse()?);
    let original = Tuple::with_ports(protocol.parse()?, client, server);

    let mut query = Query::open()?;
    let flow = query.get_by_original(&original)?.ok_or(format!("there is no connection {original}"))?;
    // The id in `flow` protects a later connection with the same addresses and ports.
    match query.delete_flow(&flow)? {
        true => println!("closed {original}"),
        false => println!("{original} has just ended by itself"),
    }
    Ok(())
}
