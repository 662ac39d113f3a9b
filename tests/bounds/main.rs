//! Bounded work: whatever clients do, the daemon's memory stays bounded and is given back, other clients get right
//! answers meanwhile, and no event of the kernel is lost.
//!
//! Each test is one kind of load. The tests run one at a time, because they measure. With `PYNATCONND_LONG` set
//! (`make soak`) they have the full numbers, and the answers of the other client must be fast too. With `--nocapture`
//! each test prints its figures.

mod crowds;
mod events;
mod observer;
mod places;
mod posts;
mod scene;
mod tables;
mod waits;
