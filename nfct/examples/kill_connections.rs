//! Removes all connections that clients in a network have opened, or those of one protocol, or those to
//! one server port, and prints how many. The gateway treats the next packet of such a connection as the
//! start of a new one, which its rules can refuse. Connections that begin meanwhile may remain.
//!
//! Usage: `kill_connections NETWORK [PROTOCOL [PORT]]`, for example
//! `kill_connections 192.168.7.0/24 tcp 443`. Needs CAP_NET_ADMIN.

use std::error::Error;
use std::net::IpAddr;
use std::process::ExitCode;

use nfct::{Direction, Endpoint, Logic, Protocol, Query, Selection};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kill_connections: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (network, protocol, port) = match &arguments[..] {
        [network] => (network, None, None),
        [network, protocol] => (network, Some(protocol), None),
        [network, protocol, port] => (network, Some(protocol), Some(port)),
        _ => return Err("usage: kill_connections NETWORK [PROTOCOL [PORT]]".into()),
    };
    let network = parse_network(network)
        .ok_or_else(|| format!("found {network:?}, expected a network such as 192.168.7.0/24 or fd00::/8"))?;
    let mut selection =
        Selection::all().networks(Direction::Original, Endpoint::Source, Logic::Only, [network]);
    if let Some(protocol) = protocol {
        selection = selection.protocol(protocol.parse::<Protocol>()?);
    }
    if let Some(port) = port {
        let port = port.parse().map_err(|_| format!("found {port:?}, expected a port from 0 to 65535"))?;
        selection = selection.port(Direction::Original, Endpoint::Destination, port);
    }

    // One socket reads while the other removes, so no list of connections is kept in memory.
    let (mut reading, mut removing) = (Query::open()?, Query::open()?);
    let mut removed = 0_u64;
    for flow in reading.dump(selection)? {
        // Returns false if the connection has just ended by itself.
        removed += u64::from(removing.delete_flow(&flow?)?);
    }
    println!("connections removed: {removed}");
    Ok(())
}

/// An address and the number of its leading bits that count; an address alone is a network of one host.
fn parse_network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address.parse().ok()?, Some(bits.parse().ok()?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(all);
    (bits <= all).then_some((address, bits))
}
