//! Safe, typed access to Linux connection tracking (conntrack) through
//! libnetfilter_conntrack.
//!
//! The kernel keeps one entry for each connection: the *original* tuple is that
//! of the first packet before NAT, the *reply* tuple that of the answers. Behind a
//! source NAT the destination of the reply tuple is the public address and port.
//! This crate lists, looks up, creates, changes and removes these entries, and
//! follows their events. It does the same for *expectations*, the connections that
//! the kernel expects because of another one.
//!
//! | task | start with | result |
//! | --- | --- | --- |
//! | query | [`Query`], with a [`Selection`]; with tokio `AsyncQuery` | [`Flow`], [`Conntrack`], [`Expectation`] |
//! | follow events | [`Events`], [`ExpectEvents`]; with tokio `EventStream` | [`Event`], [`FullEvent`], [`ExpectEvent`] in a [`Notification`] |
//! | keep a table equal to the kernel's | [`Events::resync`] | [`Flow`] |
//! | build an entry | [`Conntrack`], with every attribute of [`attr`] | |
//! | use the C library's callbacks | [`Handle`], [`ExpectHandle`] | [`ConntrackRef`], [`ExpectRef`] |
//! | work in another network namespace | [`Namespace`] | |
//!
//! [`Flow`] and [`Expectation`] are plain values. [`Conntrack`] and [`Expect`] are
//! the C library's objects, which hold everything that the kernel sends. Addresses
//! are those of [`std::net`], ports are in host byte order, times are [`Duration`]
//! and [`SystemTime`]. Numbers without a name are kept as they are. A failure is an
//! [`Error`] that names the operation, the cause and the remedy.
//!
//! [`Duration`]: std::time::Duration
//! [`SystemTime`]: std::time::SystemTime
//!
//! # Requirements
//!
//! - CAP_NET_ADMIN in the user namespace that owns the network namespace, and the
//!   kernel's `nf_conntrack_netlink`. A socket belongs to the network namespace of
//!   the thread that opened it; [`Namespace::enter`] opens one in another.
//! - libnetfilter_conntrack 1.0.9 or newer. A function that needs a newer release
//!   than the installed one returns [`Error::Library`].
//! - Features: `serde` serializes plain values, `tokio` adds `EventStream` and
//!   `AsyncQuery`.
//!
//! # Common tasks
//!
//! These are the programs in `examples/`: `cargo run -p nfct --example list`.
//!
//! ## List connections
//!
//! ```no_run
#![doc = include_str!("../examples/list.rs")]
//! ```
//!
//! ## Watch connections begin and end
//!
//! ```no_run
#![doc = include_str!("../examples/watch.rs")]
//! ```
//!
//! ## Look up a NAT mapping
//!
//! ```no_run
#![doc = include_str!("../examples/look_up.rs")]
//! ```
//!
//! ## Close a connection
//!
//! ```no_run
#![doc = include_str!("../examples/close_connection.rs")]
//! ```
//!
//! ## Create a connection with NAT
//!
//! ```no_run
#![doc = include_str!("../examples/create_with_nat.rs")]
//! ```
//!
//! ## Watch expectations
//!
//! ```no_run
#![doc = include_str!("../examples/watch_expectations.rs")]
//! ```
//!
//! # How it is cut
//!
//! A module imports only from its own layer and from those below. No two files
//! import each other.
//!
//! ```text
//! 8  resync, stream, async_query      snapshots that events continue, and the forms for tokio
//! 7  expect                           expectations: the C library's object and handle, queries, events
//! 6  query, events                    queries and subscriptions
//! 5  channel, dump                    a socket for requests with its buffer, and the answer of a dump
//! 4  handle                           the C library's handle and its callbacks
//! 3  selection, kernel_filter, dump_filter, message, statistics, namespace, notification, waiter, view
//!                                     what requests and sockets are given, what a listener is told
//! 2  conntrack, labels, owned         the C library's objects, and who frees them
//! 1  wire, tuple, flow, event, expectation, error, operation      netlink messages, values, errors and their causes
//! 0  state, direction, family, network, socket                    vocabulary, system calls
//! ```
//!
//! [`wire`] reads and writes netlink attributes in safe code over byte slices.
//! `socket` holds the system calls. `handle`, `conntrack`, `message`, `labels`,
//! `dump_filter` and `expect` wrap the C library. Only `socket` and the modules that
//! wrap the library contain `unsafe`, one operation in each block.

#[cfg(feature = "tokio")]
mod async_query;
mod channel;
mod conntrack;
mod direction;
mod dump;
mod dump_filter;
mod error;
mod event;
mod events;
mod expect;
mod expectation;
mod family;
mod flow;
mod handle;
mod kernel_filter;
mod labels;
mod message;
mod namespace;
mod network;
mod notification;
mod operation;
mod owned;
mod query;
mod resync;
mod selection;
mod socket;
mod state;
mod statistics;
#[cfg(feature = "tokio")]
mod stream;
mod tuple;
pub mod view;
mod waiter;
pub mod wire;

#[cfg(feature = "tokio")]
pub use async_query::AsyncQuery;
pub use conntrack::{Compare, Conntrack, ConntrackRef, CopyParts, Output, attr};
pub use direction::{Direction, Endpoint, Logic};
pub use dump::{Dump, Entry, Piece};
pub use error::Error;
pub use event::{Event, EventKind, ExpectGroups, Groups};
pub use events::{Events, FullEvents};
pub use expect::{
    Expect, ExpectAttribute, ExpectEvent, ExpectEvents, ExpectHandle, ExpectRef, ExpectRequest, Expectations,
};
pub use expectation::{ExpectFlags, ExpectNat, Expectation};
pub use family::Family;
pub use flow::{Counters, Flow};
pub use handle::{Connections, Handle, LibraryHandle, Next, Request, Subsystem};
pub use kernel_filter::KernelFilter;
pub use labels::{LabelMap, Labels};
pub use namespace::Namespace;
pub use notification::{EventRecord, FullEvent, Notification, Received};
pub use query::Query;
pub use selection::Selection;
pub use state::{DccpRole, DccpState, Layer3, SctpState, Status, TcpFlags, TcpState};
pub use statistics::{Count, CpuStatistics, ExpectCpuStatistics};
#[cfg(feature = "tokio")]
pub use stream::EventStream;
pub use tuple::{Layer4, Protocol, Tuple};
pub use view::View;
pub use waiter::Waiter;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

/// The release of the C library whose headers this crate was built against.
///
/// ```
/// assert!(nfct::LIBRARY_VERSION.starts_with("1."));
/// ```
pub const LIBRARY_VERSION: &str = env!("NFCT_LIBRARY_VERSION");
