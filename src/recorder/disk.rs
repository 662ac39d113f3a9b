//! The directory of the history, which counts what is written.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use nathistory::disk::{Appending, Directory, Disk, Lock, Reading};

use crate::stats::Stats;

/// A directory whose writes and syncs are counted.
#[derive(Debug)]
pub(super) struct CountedDirectory {
    pub(super) directory: Directory,
    pub(super) stats: Arc<Stats>,
}

struct CountedFile {
    file: Box<dyn Appending>,
    stats: Arc<Stats>,
}

impl CountedDirectory {
    fn counted(&self, file: Box<dyn Appending>) -> Box<dyn Appending> {
        Box::new(CountedFile { file, stats: Arc::clone(&self.stats) })
    }
}

impl Disk for CountedDirectory {
    fn name(&self) -> String {
        self.directory.name()
    }

    fn lock(&self) -> io::Result<Lock> {
        self.directory.lock()
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.directory.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Appending>> {
        Ok(self.counted(self.directory.create(name)?))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Appending>> {
        Ok(self.counted(self.directory.append(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Reading>> {
        self.directory.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.directory.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        self.directory.truncate(name, length)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.directory.sync_names()
    }
}

impl Write for CountedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.stats.history.bytes.add(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Appending for CountedFile {
    fn sync(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        let result = self.file.sync();
        self.stats.history.syncs.record(begun.elapsed());
        result
    }
}
