//! `nathistory stats`: how much there is, and what is not known.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use nathistory::Question;
use nathistory::log_time::Reference;

use crate::failure::{Failure, reader};
use crate::words;

/// Prints it. Reads all files, so that mappings of several files are counted once.
pub(crate) fn run(path: &Path, reference: &Reference, out: &mut dyn Write) -> Result<bool, Failure> {
    let reader = reader(path)?;
    let figures = reader.figures();
    writeln!(out, "gateway            {}", reader.gateway())?;
    let Some((from, to)) = reader.span() else {
        writeln!(out, "span               none yet")?;
        return Ok(true);
    };
    writeln!(out, "span               {} to {}", reference.write(from), reference.write(to))?;
    writeln!(out, "segments           {}, {} bytes", figures.segments, figures.segment_bytes)?;
    writeln!(out, "logs               {} bytes", figures.log_bytes)?;
    let mut records: u64 = 0;
    let found = reader.find(&Question::about(from, to), &mut |_| {
        records += 1;
        ControlFlow::Continue(())
    })?;
    writeln!(out, "mappings           {records}, of which {} are open at the end", figures.open)?;
    let bytes = figures.segment_bytes + figures.log_bytes;
    if records > 0 {
        writeln!(out, "bytes per mapping  {:.1}", bytes as f64 / records as f64)?;
    }
    if found.gaps.is_empty() {
        writeln!(out, "gaps               none")?;
    } else {
        writeln!(out, "gaps               {}", found.gaps.len())?;
        words::gaps(out, &found.gaps, reference)?;
    }
    Ok(true)
}
