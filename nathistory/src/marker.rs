//! The file that says that a directory is a history, and of which format.

use std::io;

use crate::disk::Disk;
use crate::error::Error;

/// The name of the marker.
pub(crate) const MARKER: &str = "FORMAT";
/// The marker before it is finished.
const UNFINISHED: &str = "FORMAT.tmp";
/// The format that this version writes.
const FORMAT: u32 = 1;
const WORD: &str = "nathistory ";
/// A marker is no longer than this.
const LONGEST: u64 = 64;

/// Whether the directory with these files has a marker.
///
/// # Errors
/// `NotAHistory` if it has other files and no marker, `Newer` and `Damaged` if the marker is not one that this
/// version knows.
pub(crate) fn check(disk: &dyn Disk, files: &[(String, u64)]) -> Result<bool, Error> {
    if !files.iter().any(|(name, _)| name == MARKER) {
        return match files.iter().find(|(name, _)| name != UNFINISHED) {
            Some((found, _)) => {
                Err(Error::NotAHistory { path: disk.name(), found: found.clone(), expected: MARKER })
            }
            None => Ok(false),
        };
    }
    let text = read(disk).map_err(|error| Error::io(format!("reading {MARKER}"), error))?;
    let format = text.strip_prefix(WORD).and_then(|rest| rest.trim_end().parse().ok());
    match format {
        Some(FORMAT) => Ok(true),
        Some(found) if found > FORMAT => Err(Error::Newer { path: disk.name(), found, known: FORMAT }),
        _ => Err(Error::damaged(MARKER, format!("it has {text:?}, not {:?}", marker()))),
    }
}

fn read(disk: &dyn Disk) -> io::Result<String> {
    let file = disk.open(MARKER)?;
    let length = usize::try_from(file.length().min(LONGEST)).unwrap_or_default();
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn marker() -> String {
    format!("{WORD}{FORMAT}\n")
}

/// Makes an empty directory a history.
///
/// # Errors
/// Those of the disk.
pub(crate) fn create(disk: &dyn Disk) -> Result<(), Error> {
    let create = || {
        match disk.remove(UNFINISHED) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = disk.create(UNFINISHED)?;
        file.write_all(marker().as_bytes())?;
        file.sync()?;
        disk.rename(UNFINISHED, MARKER)?;
        disk.sync_names()
    };
    create().map_err(|error| Error::io(format!("writing {}/{MARKER}", disk.name()), error))
}
