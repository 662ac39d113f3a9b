//! The daemon seen from outside, on real NAT, and its library where a test needs closer control. The tests share
//! one process and so one link. None of them changes the process or the machine for the others. Tests that do,
//! or that need the machine to themselves, are separate programs: `churn`, `doubt`, `loss` and `log_stall`.

mod binary;
mod check;
mod clock;
mod config_corpus;
mod connections;
mod exact;
mod faults;
mod filters;
mod history;
mod indexes;
mod interfaces;
mod legacy;
mod limits;
mod log_targets;
mod logs;
mod metrics;
mod names;
mod openapi;
mod parity;
mod process;
mod protocols;
mod reload;
mod supervisor;
mod traps;
mod usual;
mod v1;
