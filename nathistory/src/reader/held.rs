//! A disk whose files stay readable although another process removes them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::disk::{Appending, Disk, Lock, Reading};

/// Files that are open, on the disk where they were.
#[derive(Debug)]
pub(super) struct Held {
    disk: Arc<dyn Disk>,
    files: HashMap<String, Open>,
}

struct Open(Arc<dyn Reading>);

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open")
    }
}

impl Held {
    /// Opens these files.
    ///
    /// # Errors
    /// `NotFound` if one is gone already, and those of the system.
    pub(super) fn new<'a>(disk: &Arc<dyn Disk>, names: impl Iterator<Item = &'a str>) -> io::Result<Self> {
        let files = names.map(|name| Ok((name.to_owned(), Open(disk.open(name)?))));
        Ok(Self { disk: Arc::clone(disk), files: files.collect::<io::Result<_>>()? })
    }
}

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for Held {
    fn name(&self) -> String {
        self.disk.name()
    }

    fn lock(&self) -> io::Result<Lock> {
        read_only()
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn Appending>> {
        read_only()
    }

    fn append(&self, _: &str) -> io::Result<Box<dyn Appending>> {
        read_only()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Reading>> {
        match self.files.get(name) {
            Some(Open(file)) => Ok(Arc::clone(file)),
            None => self.disk.open(name),
        }
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        read_only()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        read_only()
    }

    fn truncate(&self, _: &str, _: u64) -> io::Result<()> {
        read_only()
    }

    fn sync_names(&self) -> io::Result<()> {
        read_only()
    }
}
