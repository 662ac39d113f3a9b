//! The record of who asks about the past: one line for each question, in a file or in syslog.
//!
//! Who asks for personal data must be known. So a question whose line cannot be written gets no answer.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

use syslog::{Facility, Formatter3164, LoggerBackend};

use crate::config::Audit as Target;

/// The owner writes the file and its group reads it.
const MODE: u32 = 0o640;

/// Writes the lines. A caller waits until its line is written, so this is not for the threads that serve
/// connections.
#[derive(Debug)]
pub struct Audit {
    target: Target,
    output: Mutex<Option<Output>>,
}

enum Output {
    File {
        file: File,
        /// Whether the last line is there in part only.
        is_torn: bool,
    },
    Syslog(Box<syslog::Logger<LoggerBackend, Formatter3164>>),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Output::File { .. } => "File",
            Output::Syslog(_) => "Syslog",
        })
    }
}

impl Audit {
    /// Lines for this target, which is opened for the first one.
    pub fn new(target: Target) -> Self {
        Self { target, output: Mutex::default() }
    }

    /// Where the lines go, for messages.
    pub fn name(&self) -> String {
        match &self.target {
            Target::File(path) => path.display().to_string(),
            Target::Syslog => "syslog".to_owned(),
        }
    }

    /// Writes a line, given without its end.
    ///
    /// # Errors
    /// When the file or syslog does not accept it.
    pub fn write(&self, line: &str) -> io::Result<()> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // The syslog daemon may have restarted since the last line.
        let attempts = if output.is_some() && self.target == Target::Syslog { 2 } else { 1 };
        for attempt in 1..=attempts {
            let open = match output.as_mut() {
                Some(open) => open,
                None => output.insert(self.open()?),
            };
            match open.write(line) {
                Ok(()) => return Ok(()),
                Err(error) if attempt == attempts => {
                    if self.target == Target::Syslog {
                        *output = None;
                    }
                    return Err(error);
                }
                Err(_) => *output = None,
            }
        }
        Ok(())
    }

    fn open(&self) -> io::Result<Output> {
        match &self.target {
            Target::File(path) => {
                let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
                Ok(Output::File { file, is_torn: false })
            }
            // Facility authpriv, because what it receives is usually not for all users.
            Target::Syslog => {
                let formatter = Formatter3164 {
                    facility: Facility::LOG_AUTHPRIV,
                    hostname: None,
                    process: "pynatconnd".to_owned(),
                    pid: std::process::id(),
                };
                syslog::unix(formatter).map(Box::new).map(Output::Syslog).map_err(io::Error::other)
            }
        }
    }
}

impl Output {
    fn write(&mut self, line: &str) -> io::Result<()> {
        match self {
            Output::Syslog(logger) => logger.notice(line).map_err(io::Error::other),
            Output::File { file, is_torn } => {
                let begin = if *is_torn { "\n" } else { "" };
                let written = file.write_all(format!("{begin}{line}\n").as_bytes());
                *is_torn = written.is_err();
                written
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn lines_are_appended_to_a_file_that_only_its_group_can_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        fs::write(&path, "before\n").unwrap();
        let audit = Audit::new(Target::File(path.clone()));
        audit.write("one").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\none\n");
        audit.write("two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\none\ntwo\n");
        fs::remove_file(&path).unwrap();
        Audit::new(Target::File(path.clone())).write("three").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    }

    #[test]
    fn a_line_that_cannot_be_written_is_an_error() {
        let audit = Audit::new(Target::File("/nonexistent/audit.log".into()));
        assert_eq!(audit.write("one").unwrap_err().kind(), io::ErrorKind::NotFound);
        let full = Audit::new(Target::File("/dev/full".into()));
        for _ in 0..2 {
            assert_eq!(full.write("one").unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
    }
}
