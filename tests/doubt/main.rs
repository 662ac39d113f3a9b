//! Doubt: what the daemon answers when the kernel has not told everything. Mappings whose events are masked or were
//! never sent, losses, dumps that cannot be relied on, entries that have expired. An answer names no other host, calls
//! nothing live that has ended, and says `complete` only of what is known.
//!
//! With `--nocapture` each test prints its figures.

mod alone;
mod binary;
mod bind_race;
mod deafness;
mod dumps;
mod expiry;
mod loss;
mod masks;
mod scene;
mod silent;
mod toggles;
