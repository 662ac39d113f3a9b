//! Safe, typed access to Linux connection tracking (conntrack) through
//! libnetfilter_conntrack.
//!
//! The kernel keeps one entry a connection: the *original* tuple as the first
//! packet had it before NAT, and the *reply* tuple that answers must carry.
//! Behind a source NAT the reply tuple's destination is the public address
//! and port. This crate lists, finds, makes, changes and removes these entries,
//! follows them as they come and go, and does the same for *expectations*, the
//! connections that the kernel expects because of another one.
//!
//! | to | take | get |
//! | --- | --- | --- |
//! | ask | [`Query`], with a [`Selection`] | [`Flow`], [`Conntrack`], [`Expectation`] |
//! | follow | [`Events`], [`ExpectEvents`]; with tokio `EventStream` | [`Event`], [`FullEvent`], [`ExpectEvent`] in [`News`] |
//! | build an entry | [`Conntrack`], with every attribute of [`attr`] | |
//! | do it the C library's way, with callbacks | [`Handle`], [`ExpectHandle`] | [`ConntrackRef`], [`ExpectRef`] |
//! | go to another network namespace | [`Namespace`] | |
//!
//! [`Flow`] and [`Expectation`] are plain values; [`Conntrack`] and [`Expect`]
//! are the C library's objects, which hold all that the kernel sends. Addresses
//! are those of [`std::net`], ports are in host order, times are [`Duration`]
//! and [`SystemTime`]; numbers without a name are kept as they are. What goes
//! wrong is an [`Error`] that says what was asked and how to mend it.
//!
//! [`Duration`]: std::time::Duration
//! [`SystemTime`]: std::time::SystemTime
//!
//! # What is needed
//!
//! - CAP_NET_ADMIN in the user namespace that owns the network namespace, and the
//!   kernel's `nf_conntrack_netlink`. A socket belongs to the network namespace of
//!   the thread that opened it; [`Namespace::enter`] opens one elsewhere.
//! - libnetfilter_conntrack 1.0.9 or newer. What a newer one than the installed has
//!   is an [`Error::Library`] where it is asked for.
//! - Features: `serde` writes plain values down, `tokio` makes events a stream.
//!
//! # Common jobs
//!
//! These are the programs in `examples/`: `cargo run --example list`.
//!
//! ## List connections
//!
//! ```no_run
#![doc = include_str!("../examples/list.rs")]
//! ```
//!
//! ## Watch them come and go
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
//! ## Create one with NAT
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
//! [`wire`] reads and writes netlink attributes in safe code over byte slices;
//! `socket` holds the system calls; `handle`, `conntrack`, `message` and
//! `labels` wrap the C library, `expect` does the same for expectations. Only
//! `socket` and what wraps the library contain `unsafe`, one operation a block.

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
mod owned;
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

pub use conntrack::{Compare, Conntrack, ConntrackRef, CopyParts, Output, attr};
pub use dump::{Dump, Entry, Piece};
pub use error::Error;
pub use events::{
    Event, EventKind, Events, FullEvent, FullEvents, Groups, Happening, News, Received, Waiter,
};
pub use expect::{
    Expect, ExpectAttribute, ExpectEvent, ExpectEvents, ExpectFlags, ExpectGroups, ExpectHandle, ExpectNat,
    ExpectRef, ExpectRequest, Expectation,
};
pub use flow::{Counters, Flow};
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

/// The README's example is compiled too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

/// Version of the C library whose headers this crate was built against.
///
/// ```
/// assert!(nfct::LIBRARY_VERSION.starts_with("1."));
/// ```
pub const LIBRARY_VERSION: &str = env!("NFCT_LIBRARY_VERSION");
