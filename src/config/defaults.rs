//! What is in force where the file says nothing, as text in the file's own dialect.

/// LOCAL0.
pub const LOCAL_FACILITY: &str = "0";
/// Informational messages.
pub const DEBUG_LEVEL: &str = "4";
/// Seconds.
pub const DEL_DELAY: &str = "10";
/// Seconds: an hour.
pub const GARBAGE_CLEANER_INTERVAL: &str = "3600";
/// Seconds: an hour.
pub const LIFE_SPAN: &str = "3600";
/// Seconds.
pub const JOIN_TIMEOUT: &str = "5";
/// Only this machine can reach it.
pub const HOST: &str = "127.0.0.1";
/// One that needs no privilege.
pub const PORT: &str = "8080";
/// Only this machine may ask.
pub const IP_ACL: &str = "127.0.0.0/8, ::1/128";
/// What meets the filter is answered, translated or not, as the Python program did.
pub const NAT_ONLY: &str = "no";
/// Seconds: five minutes.
pub const SWEEP_INTERVAL: &str = "300";
/// Room for some hundred thousand events; only what waits in it costs memory.
pub const RECEIVE_BUFFER: &str = "64M";
/// As much as a loss may make of it.
pub const RECEIVE_BUFFER_MAX: &str = "512M";
/// Nobody's packets wait for this program.
pub const RELIABLE: &str = "no";
