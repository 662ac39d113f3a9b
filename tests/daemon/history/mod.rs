//! The history, as it is in the files after the daemon has followed real NAT: when mappings began and ended,
//! how that is known (`times`), which times are missing (`gaps`), and what happens if it cannot be written (`disk`,
//! `faults`).
//! `setup` is the gateway, and reads the files.

mod disk;
mod faults;
mod gaps;
mod setup;
mod times;
