//! Lists the kernel's expectations, then prints each one as it begins and as it ends: the data connections
//! of FTP, SIP and other helpers.
//!
//! Usage: `watch_expectations`. Needs CAP_NET_ADMIN. The output for an FTP transfer through a NAT gateway:
//!
//! New      expects tcp 198.51.100.1:* -> 100.64.2.1:34239 for tcp 192.168.7.2:38144 -> 198.51.100.1:21
//! Destroy  expects tcp 198.51.100.1:* -> 100.64.2.1:34239 for tcp 192.168.7.2:38144 -> 198.51.100.1:21

use nfct::{ExpectEvents, ExpectGroups, Family, Notification, Query};

fn main() -> Result<(), nfct::Error> {
    // Listen first, then list: no expectation that begins in between is missed.
    let events = ExpectEvents::subscribe(ExpectGroups::ALL)?;
    for expectation in Query::open()?.dump_expectations(Family::Any)? {
        println!("{}", expectation?);
    }
    for notification in events {
        match notification? {
            Notification::Event(event) => println!("{:8} {}", format!("{:?}", event.kind), event.expectation),
            Notification::Recovered { lost } => eprintln!("{lost} events lost (receive buffer full)"),
            Notification::Malformed(error) => eprintln!("an event cannot be read: {error}"),
            _ => {}
        }
    }
    Ok(())
}
