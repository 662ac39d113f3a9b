//! Lists connections, as `conntrack -L` does: `list [tcp|udp|…] [inside address]`.
//!
//! Needs CAP_NET_ADMIN.

use nfct::{Direction, Endpoint, Protocol, Query, Selection};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut selection = Selection::all();
    let mut words = std::env::args().skip(1);
    if let Some(protocol) = words.next() {
        selection = selection.protocol(protocol.parse::<Protocol>()?);
    }
    if let Some(inside) = words.next() {
        selection = selection.address(Direction::Original, Endpoint::Source, inside.parse()?);
    }

    let mut query = Query::open()?;
    let count = query.count()?;
    let mut shown = 0;
    let mut dump = query.dump(selection)?;
    for flow in &mut dump {
        let flow = flow?;
        let seconds = flow.timeout.map_or(String::new(), |timeout| format!(", {timeout} s left"));
        println!("{}, answers come as {}{seconds}", flow.original, flow.reply);
        shown += 1;
    }
    let doubt = if dump.was_interrupted() { ", perhaps not all" } else { "" };
    eprintln!("{shown} of {} entries{doubt}", count.entries);
    Ok(())
}
