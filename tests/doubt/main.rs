//! Cases in which the table alone cannot decide: entries that the kernel inserts without a NEW event, events that
//! overtake each other, events that come again. Most are races, which these tests force. They need the machine to
//! themselves, so they run one at a time ([`alone`]).
//!
//! With `PYNATCONND_LONG` set, the tests run longer and force more races.

mod alone;
mod arrival;
mod binary;
mod clash;
mod heard;
mod lives;
mod lookups;
mod order;
mod race;
mod redelivery;
