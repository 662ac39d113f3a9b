//! A directory that counts the files that are opened.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nathistory::disk::{Appending, Directory, Disk, Lock, Reading};

/// Counts the files that are opened to read them.
#[derive(Debug)]
pub struct Counted {
    directory: Directory,
    opened: AtomicUsize,
}

impl Counted {
    pub fn new(path: &Path) -> Arc<Self> {
        let directory = Directory::existing(path).unwrap();
        Arc::new(Self { directory, opened: AtomicUsize::new(0) })
    }

    /// The files that were opened since the last call.
    pub fn take_opened(&self) -> usize {
        self.opened.swap(0, Ordering::Relaxed)
    }
}

impl Disk for Counted {
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
        self.directory.create(name)
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Appending>> {
        self.directory.append(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Reading>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
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
