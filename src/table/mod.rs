//! The table of NAT mappings and its indexes.
//!
//! An entry is one lifetime of one mapping. As in the kernel, reply tuple, protocol
//! and zone together identify a live mapping. A closed mapping is kept for
//! `del_delay`, even if a live one has the same tuples. The table does not know
//! netlink or HTTP. The tracker guards it with a mutex, so every method takes a
//! short, bounded time or works in slices.
//!
//! `store` is the complete table: it passes each call to the `family` of the
//! addresses, and numbers all changes. `batch` applies many events together. `family` holds the
//! mappings of IPv4 or of IPv6: it stores, closes and expires them. Its other methods are in
//! `report` (apply the kernel's events), `dump` (merge a dump of the kernel's table), `verify` (what
//! is doubtful, and the kernel's answers about it), `queries` (lookups and scans), `chain`
//! (connections that are translated twice), `build` (add and remove indexes), `warm` (load what several
//! calls need into the cache) and `reload` (put another filter into force). Below it, `chunks` is the storage, `slots` which of it is free, `entry` what
//! is stored: `packed` tuples and `moment`s. `index` and `tuple_index` find entries, both with the
//! hash tables of `shards`; `heads` has the first entries of an index's chains. `forward` finds
//! connections that began outside. `closed` has the closed entries in order, `publics` knows which
//! public addresses there can be, `ended` the lifetimes that end while a dump runs, `repeated` those
//! whose DESTROY event comes again, `journal` the changes for listeners, and `feed` what a recorder is told. `cursor` is a position
//! for work in slices.

mod batch;
mod build;
mod chain;
mod chunks;
mod closed;
#[cfg(test)]
mod crowd_tests;
mod cursor;
#[cfg(test)]
mod doubt_model;
#[cfg(test)]
mod doubt_tests;
mod dump;
mod ended;
mod entry;
mod family;
mod feed;
#[cfg(test)]
mod feed_tests;
mod forward;
mod heads;
mod index;
#[cfg(test)]
mod invariant_tests;
mod journal;
#[cfg(test)]
mod lifetime_tests;
mod moment;
mod packed;
mod publics;
mod queries;
mod reload;
mod repeated;
mod report;
mod shards;
mod slots;
mod store;
#[cfg(test)]
mod tests;
mod tuple_index;
mod verify;
mod warm;

pub use batch::Batch;
pub use build::IndexBuild;
pub use cursor::Cursor;
pub use family::MAX_CLOSING_TIMEOUT;
pub use feed::{BeginKnown, Begun, DroppedItems, EndKnown, Ended, Fed, FeedItem, GapCause};
pub use heads::{IndexedBy, WARMED};
pub use index::Unfinished;
pub use journal::{Change, Changes, Dropped};
pub use packed::PackedFlow;
pub use queries::Transport;
pub use report::CloseResult;
pub use store::{Limits, Table};
pub use verify::{Asked, Verified};
