//! The daemon seen from outside, on real NAT, and what of its library a test can drive more closely. The tests
//! share one process, so that one link serves them all: none of them changes the process or the machine for the
//! others. Those that do, or need the machine for themselves, are programs of their own: `churn`, `loss`,
//! `log_stall`.

mod binary;
mod check;
mod clock;
mod config_corpus;
mod connections;
mod exact;
mod legacy;
mod log_targets;
mod logs;
mod metrics;
mod openapi;
mod parity;
mod process;
mod protocols;
mod reload;
mod supervisor;
mod usual;
mod v1;
