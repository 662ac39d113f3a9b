//! Prints each connection as it begins and as it ends.
//!
//! Usage: `watch [NAMESPACE]`, with the name of a network namespace (`ip netns`). Needs CAP_NET_ADMIN, and
//! CAP_SYS_ADMIN for another namespace.

use nfct::{EventKind, Events, Groups, Namespace, Notification};

fn main() -> Result<(), nfct::Error> {
    let subscribe = || Events::subscribe(Groups::NEW | Groups::DESTROY);
    let events = match std::env::args().nth(1) {
        None => subscribe()?,
        Some(name) => Namespace::named(&name)?.enter(subscribe)?,
    };
    events.set_receive_buffer(16 << 20)?;
    for notification in events {
        match notification? {
            Notification::Event(event) if event.kind == EventKind::New => {
                println!("+ {}", event.flow.original)
            }
            Notification::Event(event) => println!("- {}", event.flow.original),
            Notification::Recovered { lost } => eprintln!("{lost} events lost (receive buffer full)"),
            Notification::Malformed(error) => eprintln!("an event cannot be read: {error}"),
            _ => {}
        }
    }
    Ok(())
}
