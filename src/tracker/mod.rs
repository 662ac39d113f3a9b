//! Keeps the table equal to the kernel's.
//!
//! The kernel queues the NEW event of a connection on the listening socket
//! before the connection's first packet leaves the gateway. A lookup therefore
//! first drains that queue, under the lock that guards the table, and then
//! reads: its result is never older than the request. `read` is the only way to
//! the table for a lookup, so no lookup can skip this step.
//!
//! Six threads run independently of the lookups. `pump` drains the socket while no
//! lookup does. `resync` decides when the kernel's table is read: at the start, after
//! an overrun and from time to time. `dump` then reads and merges it. `verify` queries
//! the kernel about single connections; lookups and other threads pass work to it
//! through the `verifier`. `rules` follows the rules of nftables that suppress events.
//! `addresses` follows the addresses of the interfaces that the filter names. `indexes` builds the
//! indexes that lookups need and removes those that they do not. `start` subscribes to the kernel's events and starts the threads.
//!
//! `lookup` finds mappings, and has the doubtful ones verified by `check`. `via` follows
//! connections that are translated twice, and `fields` reads more of the kernel's entries.
//! `completeness` says whether the table is complete. It depends on `reporting`: what is
//! known about connections that the kernel does not report. `clashes` is about UDP entries
//! that the kernel hides.
//! `publish` passes changes on to the `listener`s, `ports` counts the public ports in use.
//! `feed` tells a recorder, if there is one, what begins and ends, and since when the table may have lacked
//! something: `recording` keeps what must be known for that.
//! `reload` puts another configuration into force, and `memory` gives memory back.
//! `filter_change` puts another filter into force, for `reload` and `addresses`; `filtering` is
//! what that filter is made with.
//!
//! All of these work on the `shared` tracker, which has the lock: `guard` holds it,
//! `state` is what it protects. `settings` is the part of the configuration that the
//! tracker uses, `dump_request` wakes the thread that reads dumps, and `index_requests` the one that builds indexes. `pulse` shows that a
//! thread makes progress.

mod addresses;
mod check;
mod clashes;
mod completeness;
mod dump;
mod dump_request;
mod feed;
mod fields;
mod filter_change;
mod filtering;
mod guard;
mod index_requests;
mod indexes;
mod listener;
mod lookup;
mod memory;
mod ports;
mod publish;
mod pulse;
mod pump;
mod read;
mod recording;
mod reload;
mod reporting;
mod resync;
mod rules;
mod settings;
mod shared;
mod start;
mod state;
mod verifier;
mod verify;
mod via;
mod watch;

pub use nfct::{Error, LIBRARY_VERSION};

pub use feed::Taken;
pub use listener::{ChangeBatch, ChangeEvent, ChangeListener, Received};
pub use lookup::LookupError;
pub use ports::PortsInUse;
pub use read::Answer;
pub use reporting::Incomplete;
pub use settings::Settings;
pub use shared::Tracker;
pub use watch::{ChangeWatch, Matching};
