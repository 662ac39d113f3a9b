//! `nathistory verify`: whether the files are what was written.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use nathistory::disk::Disk;

use crate::failure::{Failure, directory};

/// Names every problem; returns whether there is none.
pub(crate) fn run(path: &Path, out: &mut dyn Write) -> Result<bool, Failure> {
    let disk: Arc<dyn Disk> = directory(path)?;
    let report = nathistory::check(&disk)?;
    for problem in &report.problems {
        writeln!(out, "{}: {}", problem.file, problem.what)?;
    }
    let count = match report.problems.len() {
        0 => "no problems".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    let (segments, rows, bytes) = (report.segments, report.rows, report.bytes);
    writeln!(out, "{count} in {segments} segments with {rows} rows, {bytes} bytes")?;
    Ok(report.problems.is_empty())
}
