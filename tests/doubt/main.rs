//! Doubt: cases in which the table alone cannot decide, with the real kernel. Entries that the kernel inserts without
//! a NEW event; events that overtake each other, come again, are masked, or were lost; dumps that cannot be relied on;
//! entries that have expired. An answer names no other host, calls nothing live that has ended, and says `complete`
//! only of what is known.
//!
//! Many are races, which these tests force. They need the machine to themselves, so they run one at a time
//! ([`alone`]). With `PYNATCONND_LONG` set, they run longer and force more races. With `--nocapture` each test prints
//! its figures.

mod alone;
mod arrival;
mod binary;
mod bind_race;
mod clash;
mod deafness;
mod dumps;
mod expiry;
mod heard;
mod lives;
mod lookups;
mod loss;
mod masks;
mod order;
mod race;
mod redelivery;
mod scene;
mod silent;
mod toggles;
