//! The outputs of the log: standard error, and syslog if the configuration has
//! a `[syslog]` section.

use std::io::Write;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, Formatter3164, LoggerBackend};

use crate::clock::Stamp;
use crate::held;

/// The shortest time between two lines that a client can cause, in milliseconds.
const SELDOM: u64 = 1000;

/// Lines that a client can cause are logged as warnings at most once per second.
#[derive(Debug, Default)]
pub struct Seldom(AtomicU64);

impl Seldom {
    /// Whether the next warning is due.
    pub fn is_due(&self, now: Stamp) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        now.monotonic.saturating_sub(last) >= SELDOM
            && self.0.compare_exchange(last, now.monotonic, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The system's log socket.
const DEV_LOG: &str = "/dev/log";

/// Starts logging, or changes its settings. Other crates log only warnings and
/// errors.
///
/// Under systemd, lines begin with the priority prefix that journald reads
/// (`sd-daemon(3)`) instead of a time and a level.
pub fn start(level: LevelFilter, local_facility: Option<u8>) {
    let syslog = local_facility.filter(|_| Path::new(DEV_LOG).exists()).map(Syslog::new);
    let missing = local_facility.is_some() && syslog.is_none();
    *LOGGER.outputs.write().unwrap_or_else(PoisonError::into_inner) =
        Some(Outputs { level, stderr: stderr(), syslog });
    // Fails if this call only changes the settings, because the logger is set
    // already.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level.max(LevelFilter::Warn));
    if missing {
        log::warn!("[syslog] is set, but there is no {DEV_LOG}: logging to standard error only");
    }
}

fn stderr() -> env_logger::Logger {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Trace);
    if stderr_is_journal() {
        builder.format(|out, record| writeln!(out, "<{}>{}", priority(record.level()), record.args()));
    }
    builder.build()
}

static LOGGER: Logger = Logger { outputs: RwLock::new(None) };

struct Logger {
    outputs: RwLock<Option<Outputs>>,
}

struct Outputs {
    level: LevelFilter,
    stderr: env_logger::Logger,
    syslog: Option<Syslog>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        let Some(outputs) = outputs.as_ref() else { return false };
        let is_own = ["pynatconnd", "natnames"].iter().any(|name| metadata.target().starts_with(name));
        metadata.level() <= if is_own { outputs.level } else { outputs.level.min(LevelFilter::Warn) }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        held::forbid("writing to the log");
        let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(outputs) = outputs.as_ref() {
            outputs.stderr.log(record);
            if let Some(syslog) = &outputs.syslog {
                syslog.log(record);
            }
        }
    }

    fn flush(&self) {}
}

/// The connection to the syslog daemon. It is opened for the first line, and again
/// after that daemon has restarted.
struct Syslog {
    facility: Facility,
    connection: Mutex<Option<syslog::Logger<LoggerBackend, Formatter3164>>>,
}

impl Syslog {
    fn new(local_facility: u8) -> Self {
        let local = [
            Facility::LOG_LOCAL0,
            Facility::LOG_LOCAL1,
            Facility::LOG_LOCAL2,
            Facility::LOG_LOCAL3,
            Facility::LOG_LOCAL4,
            Facility::LOG_LOCAL5,
            Facility::LOG_LOCAL6,
            Facility::LOG_LOCAL7,
        ];
        Self { facility: local[usize::from(local_facility) % local.len()], connection: Mutex::new(None) }
    }

    fn log(&self, record: &Record<'_>) {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..2 {
            if connection.is_none() {
                let formatter = Formatter3164 {
                    facility: self.facility,
                    hostname: None,
                    process: "pynatconnd".to_owned(),
                    pid: std::process::id(),
                };
                *connection = syslog::unix(formatter).ok();
            }
            let Some(logger) = connection.as_mut() else { return };
            let line = record.args();
            let sent = match record.level() {
                Level::Error => logger.err(line),
                Level::Warn => logger.warning(line),
                Level::Info => logger.info(line),
                Level::Debug | Level::Trace => logger.debug(line),
            };
            match sent {
                Ok(()) => return,
                Err(_) => *connection = None,
            }
        }
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// systemd sets this variable to the device and inode of the stream it passed. If
/// standard error is redirected, the variable stays but the file differs.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino())
}
