//! Safe, typed access to Linux connection tracking (conntrack) through
//! libnetfilter_conntrack.
//!
//! The kernel keeps one entry for each connection. Its *original* tuple is that of
//! the packets from the client, before NAT. Its *reply* tuple is that of the packets
//! from the server: with source NAT its destination is the public address and port.
//! This crate lists, looks up, creates, changes and removes these entries, and
//! follows their events. It does the same for *expectations*, the connections that
//! the kernel expects because of another connection.
//!
//! | task | start with | result |
//! | --- | --- | --- |
//! | list, look up, change or remove entries | [`Query`], with a [`Selection`]; on tokio `AsyncQuery` | [`Flow`] |
//! | follow events | [`Events`]; on tokio `EventStream` | [`Event`] in a [`Notification`] |
//! | keep a table equal to the kernel's | [`Events::resync`] | [`Flow`] |
//! | create an entry, or read every attribute of one | [`Conntrack`], with [`attr`] | |
//! | work with expectations | [`Query::dump_expectations`], [`ExpectEvents`] | [`Expectation`], [`ExpectEvent`] |
//! | work in another network namespace | [`Namespace::enter`] | |
//! | use the C library's callbacks | [`Handle`], [`ExpectHandle`] | [`ConntrackRef`], [`ExpectRef`] |
//!
//! [`Flow`] and [`Expectation`] are plain values. [`Conntrack`] and [`Expect`] are
//! the C library's objects, which have everything that the kernel sends. Addresses
//! are those of [`std::net`]. Ports are in host byte order. Numbers of the kernel
//! that have no name here are kept as they are. An [`Error`] names the operation,
//! the cause and, where one is known, the remedy.
//!
//! # Quick start
//!
//! Install the C library, its headers and libclang (Debian, Ubuntu:
//! `apt install libnetfilter-conntrack-dev libclang-dev pkg-config`), then
//! `cargo add nfct`. This program lists all connections:
//!
//! ```no_run
//! use nfct::{Family, Query};
//!
//! fn main() -> Result<(), nfct::Error> {
//!     for flow in Query::open()?.dump(Family::Any)? {
//!         let flow = flow?;
//!         println!("{}, replies {}", flow.original, flow.reply);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Requirements
//!
//! - The kernel's `nf_conntrack_netlink`.
//! - CAP_NET_ADMIN in the user namespace that owns the network namespace. Root has
//!   it. A socket belongs to the network namespace of the thread that opened it.
//! - libnetfilter_conntrack 1.0.9 or newer. A function that needs a newer release
//!   than the installed one returns [`Error::Library`].
//!
//! # Features
//!
//! No feature is enabled by default.
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `serde` | `Serialize` and `Deserialize` for plain values and for [`View`], a copy of a [`Conntrack`] |
//! | `tokio` | `EventStream` and `AsyncQuery` |
//! | `prebuilt-bindings` | builds without the C library's headers and without libclang, and for other targets; the C library is still linked |
//!
//! # Common tasks
//!
//! These four programs are complete tools:
//!
//! | program | what it does |
//! | --- | --- |
//! | [`exporter`](https://docs.rs/crate/nfct/latest/source/examples/exporter.rs) | exports entries, limit and the counters of each CPU to Prometheus |
//! | [`nat_logger`](https://docs.rs/crate/nfct/latest/source/examples/nat_logger.rs) | logs the begin and the end of each translated connection, and counts lost events |
//! | [`kill_connections`](https://docs.rs/crate/nfct/latest/source/examples/kill_connections.rs) | removes all connections of a network, protocol and port |
//! | [`pin_dnat`](https://docs.rs/crate/nfct/latest/source/examples/pin_dnat.rs) | keeps an entry with destination NAT for one client |
//!
//! The short programs below each show one task. All of them are in the folder
//! `examples` of the crate; in its repository `cargo run -p nfct --example list`
//! builds and starts one.
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
//! ## Look up the client behind a public address
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
//! # Layers
//!
//! A module imports only from its own layer and from those below. No two files
//! import each other.
//!
//! ```text
//! 9  resync, stream, async_query      snapshots that events continue; events and queries on tokio
//! 8  expect                           expectations: the C library's object and handle, queries, events
//! 7  query, events                    queries and subscriptions
//! 6  channel, dump, rule_changes      a socket for requests with its buffer; the answer of a dump; changed rules
//! 5  handle                           the C library's handle and its callbacks
//! 4  selection, kernel_filter, dump_filter, message, statistics, event_mask, namespace, notification, waiter, view
//!                                     parts of requests, socket settings, what a query or a subscription returns
//! 3  conntrack, labels, owned         the C library's objects, and the code that frees them
//! 2  wire                             netlink messages
//! 1  tuple, flow, found, event, expectation, operation, error  values, errors and their causes
//! 0  state, direction, family, network, malformed, socket, allocator   vocabulary, system calls, free memory
//! ```
//!
//! [`wire`] reads and writes netlink attributes in safe code over byte slices.
//! `socket` contains the system calls. `handle`, `conntrack`, `message`, `labels`,
//! `dump_filter` and `expect` wrap the C library. Only `socket`, `allocator`, `owned`
//! and the modules that wrap the library contain `unsafe`, one operation in each block.

mod allocator;
#[cfg(feature = "tokio")]
mod async_query;
mod channel;
mod conntrack;
mod direction;
mod dump;
mod dump_filter;
mod error;
mod event;
mod event_mask;
mod events;
mod expect;
mod expectation;
mod family;
mod flow;
mod found;
mod handle;
mod kernel_filter;
mod labels;
mod malformed;
mod message;
mod namespace;
mod network;
mod notification;
mod operation;
mod owned;
mod query;
mod resync;
mod rule_changes;
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

pub use allocator::release_memory;
#[cfg(feature = "tokio")]
pub use async_query::AsyncQuery;
pub use conntrack::{Compare, Conntrack, ConntrackRef, CopyParts, Output, attr};
pub use direction::{Direction, Endpoint, Logic};
pub use dump::{Dump, Entry, Piece};
pub use error::Error;
pub use event::{Event, EventKind, ExpectGroups, Groups};
pub use event_mask::EventMask;
pub use events::{Events, FullEvents};
pub use expect::{
    Expect, ExpectAttribute, ExpectEvent, ExpectEvents, ExpectHandle, ExpectRef, ExpectRequest, Expectations,
};
pub use expectation::{ExpectFlags, ExpectNat, Expectation};
pub use family::Family;
pub use flow::{Counters, Flow};
pub use found::Found;
pub use handle::{Connections, Handle, LibraryHandle, Next, Request, Subsystem};
pub use kernel_filter::KernelFilter;
pub use labels::{LabelMap, Labels};
pub use namespace::Namespace;
pub use notification::{EventRecord, FullEvent, Notification, Received};
pub use query::Query;
pub use rule_changes::{RuleChange, RuleChanges};
pub use selection::Selection;
pub use state::{DccpRole, DccpState, Layer3, SctpState, Status, TcpFlags, TcpState};
pub use statistics::{Count, CpuStatistics, ExpectCpuStatistics};
#[cfg(feature = "tokio")]
pub use stream::EventStream;
pub use tuple::{Layer4, ParseProtocolError, Protocol, Tuple};
pub use view::View;
pub use waiter::Waiter;

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

/// The release of the C library whose headers this crate was built against.
///
/// ```
/// assert!(nfct::LIBRARY_VERSION.starts_with("1."));
/// ```
pub const LIBRARY_VERSION: &str = env!("NFCT_LIBRARY_VERSION");
