//! Safe, typed access to Linux connection tracking (conntrack) through
//! libnetfilter_conntrack.
//!
//! The kernel keeps one entry a connection: the *original* tuple as the first
//! packet had it before NAT, and the *reply* tuple that answers must carry.
//! Behind a source NAT the reply tuple's destination is the public address
//! and port. This crate reads those entries in three ways:
//!
//! * [`Events`] follows what the kernel says as it happens;
//! * [`Query`] asks: all entries ([`Query::dump`]) or those of a [`Selection`],
//!   exactly one ([`Query::get_by_reply`]), how many ([`Query::count`]); makes
//!   one ([`Query::create`]), changes, removes ([`Query::delete_flow`],
//!   [`Query::flush`]);
//! * [`Handle`] is the C library's own way, a callback for each entry, made
//!   safe.
//!
//! [`Events`] and [`Query`] hand out a [`Flow`], a plain value. [`Conntrack`]
//! is the C library's object, for building entries and for all that a `Flow`
//! leaves out: [`attr`] names everything that it holds.
//!
//! ```no_run
//! # fn main() -> Result<(), nfct::Error> {
//! // Every connection, with its address before and after NAT.
//! let mut query = nfct::Query::open()?;
//! for flow in query.dump(nfct::Family::Any)? {
//!     let flow = flow?;
//!     println!("{} -> seen outside as {}", flow.original, flow.reply.dst);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is needed
//!
//! Reading and following need CAP_NET_ADMIN in the user namespace that owns
//! the network namespace, and the kernel's `nf_conntrack_netlink`. A socket
//! belongs to the network namespace of the thread that opened it;
//! [`Namespace::enter`] opens one elsewhere.
//!
//! # How it is cut
//!
//! `wire` reads and writes netlink attributes in safe code over byte slices;
//! `socket` holds the system calls; `handle`, `conntrack`, `message` and
//! `labels` wrap the C library, `expect` does the same for expectations. Only `socket` and
//! what wraps the library contain `unsafe`, one operation a block.

mod conntrack;
mod dump;
mod dump_filter;
mod error;
mod events;
mod expect;
mod flow;
mod handle;
mod kernel_filter;
mod labels;
mod message;
mod namespace;
mod query;
mod selection;
mod socket;
mod state;
mod statistics;
#[cfg(feature = "tokio")]
mod stream;
mod tuple;
pub mod view;
pub mod wire;

pub use conntrack::{Compare, Conntrack, ConntrackRef, Counters, Output, Parts, attr};
pub use dump::{Dump, Entry, Piece};
pub use error::Error;
pub use events::{
    Event, EventKind, Events, FullEvent, FullEvents, Groups, Happening, News, Received, Waiter,
};
pub use expect::{
    Expect, ExpectAttribute, ExpectEvent, ExpectEvents, ExpectFlags, ExpectGroups, ExpectHandle, ExpectNat,
    ExpectRef, ExpectRequest, Expectation,
};
pub use flow::Flow;
pub use handle::{Handle, Next, Request};
pub use kernel_filter::{Direction, End, KernelFilter, Logic};
pub use labels::{LabelMap, Labels};
pub use namespace::Namespace;
pub use query::Query;
pub use selection::{Family, Selection};
pub use state::{DccpRole, DccpState, Layer3, SctpState, Status, TcpFlags, TcpState};
pub use statistics::{Count, CpuStatistics, ExpectCpuStatistics};
#[cfg(feature = "tokio")]
pub use stream::EventStream;
pub use tuple::{Layer4, Protocol, Tuple};
pub use view::View;

/// Version of the C library whose headers this crate was built against.
///
/// ```
/// assert!(nfct::LIBRARY_VERSION.starts_with("1."));
/// ```
pub const LIBRARY_VERSION: &str = env!("NFCT_LIBRARY_VERSION");
