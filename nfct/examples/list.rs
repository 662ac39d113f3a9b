//! Lists connections, as `conntrack -L` does.
//!
//! Usage: `list [PROTOCOL [CLIENT]]`, for example `list tcp 192.168.7.2`. Needs CAP_NET_ADMIN.

use nfct::{Direction, Endpoint, Protocol, Query, Selection};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut selection = Selection::all();
    let mut arguments = std::env::args().skip(1);
    if let Some(protocol) = arguments.next() {
        selection = selection.protocol(protocol.parse::<Protocol>()?);
    }
    if let Some(client) = arguments.next() {
        selection = selection.address(Direction::Original, Endpoint::Source, client.parse()?);
    }

    let mut query = Query::open()?;
    let count = query.count()?;
    let mut listed = 0;
    let mut dump = query.dump(selection)?;
    for flow in &mut dump {
        let flow = flow?;
        let seconds = flow.timeout.map_or(String::new(), |timeout| format!(", {timeout} s left"));
        println!("{}, replies {}{seconds}", flow.original, flow.reply);
        listed += 1;
    }
    let note = if dump.was_interrupted() { " (the list may be incomplete)" } else { "" };
    eprintln!("{listed} of {} entries{note}", count.entries);
    Ok(())
}
