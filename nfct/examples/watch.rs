//! Watches connections come and go: `watch [network namespace]`, by its name for `ip netns`.
//!
//! Needs CAP_NET_ADMIN, and CAP_SYS_ADMIN for another namespace.

use nfct::{EventKind, Events, Groups, Namespace, News};

fn main() -> Result<(), nfct::Error> {
    let subscribe = || Events::subscribe(Groups::NEW | Groups::DESTROY);
    let events = match std::env::args().nth(1) {
        None => subscribe()?,
        Some(name) => Namespace::named(&name)?.enter(subscribe)?,
    };
    events.set_receive_buffer(16 << 20)?;
    for news in events {
        match news? {
            News::Event(event) if event.kind == EventKind::New => println!("+ {}", event.flow.original),
            News::Event(event) => println!("- {}", event.flow.original),
            News::Overrun => eprintln!("some events were lost: what is shown is not all"),
            News::Malformed(error) => eprintln!("an event could not be read: {error}"),
        }
    }
    Ok(())
}
