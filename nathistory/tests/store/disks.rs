//! Disks in memory: one that remembers all writes, syncs and names, to lose power at any of them, and that can be
//! full, broken or slow.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use nathistory::disk::{Appending, Disk, Lock, Reading};

/// What happened to a disk.
#[derive(Debug, Clone)]
pub enum Operation {
    Create { name: String, file: usize },
    Write { file: usize, bytes: Vec<u8> },
    Truncate { file: usize, length: usize },
    Sync { file: usize },
    Rename { from: String, to: String, file: usize },
    Remove { name: String },
    SyncNames,
}

/// What a caller does to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    Truncate,
    SyncNames,
}

/// Decides what a call leads to: `Ok`, or an error; of a write, also after how many bytes.
pub type Fault = Box<dyn FnMut(Call, &str) -> Result<(), usize> + Send>;

#[derive(Default)]
struct Inner {
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
    operations: Vec<Operation>,
    opened: Vec<String>,
    unreadable: Vec<String>,
    is_recording: bool,
    fault: Option<Fault>,
}

/// A disk in memory.
#[derive(Default, Clone)]
pub struct Memory {
    inner: Arc<Mutex<Inner>>,
    locked: Arc<AtomicBool>,
    gate: Arc<Gate>,
}

/// Where calls wait while it is closed.
#[derive(Default)]
pub struct Gate {
    closed_for: Mutex<Option<(Call, String)>>,
    changed: Condvar,
    waiting: AtomicBool,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

impl Gate {
    /// Lets calls of this kind, on files whose names contain this, wait; or none.
    pub fn close_for(&self, calls: Option<(Call, String)>) {
        let mut closed_for = self.closed_for.lock().unwrap();
        *closed_for = calls;
        self.waiting.store(false, Ordering::SeqCst);
        drop(closed_for);
        self.changed.notify_all();
    }

    /// Waits until a call waits.
    pub fn wait_for_caller(&self) {
        let mut closed = self.closed_for.lock().unwrap();
        while !self.waiting.load(Ordering::SeqCst) {
            closed = self.changed.wait(closed).unwrap();
        }
    }

    fn pass(&self, call: Call, name: &str) {
        let mut closed = self.closed_for.lock().unwrap();
        while closed.as_ref().is_some_and(|(which, part)| *which == call && name.contains(part.as_str())) {
            self.waiting.store(true, Ordering::SeqCst);
            self.changed.notify_all();
            closed = self.changed.wait(closed).unwrap();
        }
    }
}

impl Memory {
    pub fn recording() -> Self {
        let disk = Self::default();
        disk.inner.lock().unwrap().is_recording = true;
        disk
    }

    pub fn of_files(files: BTreeMap<String, Vec<u8>>) -> Self {
        let disk = Self::default();
        {
            let mut inner = disk.inner.lock().unwrap();
            for (name, bytes) in files {
                let file = inner.files.len();
                inner.files.push(bytes);
                inner.names.insert(name, file);
            }
        }
        disk
    }

    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        self.inner.lock().unwrap().fault = fault;
    }

    /// Lets the disk fail to read these files.
    pub fn set_unreadable(&self, names: &[&str]) {
        self.inner.lock().unwrap().unreadable = names.iter().map(|name| (*name).to_owned()).collect();
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.inner.lock().unwrap().operations.clone()
    }

    /// The files that were opened to read them, since the last call.
    pub fn take_opened(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().unwrap().opened)
    }

    pub fn count(&self) -> usize {
        self.inner.lock().unwrap().operations.len()
    }

    /// The names that end so, in order.
    pub fn names(&self, end: &str) -> Vec<String> {
        let inner = self.inner.lock().unwrap();
        inner.names.keys().filter(|name| name.ends_with(end)).cloned().collect()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let inner = self.inner.lock().unwrap();
        inner.files[inner.names[name]].clone()
    }

    pub fn set_bytes(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.inner.lock().unwrap();
        let file = inner.files.len();
        inner.files.push(bytes);
        inner.names.insert(name.to_owned(), file);
    }

    fn call(&self, call: Call, name: &str) -> Result<(), usize> {
        self.gate.pass(call, name);
        let fault = self.inner.lock().unwrap().fault.take();
        let Some(mut fault) = fault else { return Ok(()) };
        let outcome = fault(call, name);
        self.inner.lock().unwrap().fault.get_or_insert(fault);
        outcome
    }

    fn checked(&self, call: Call, name: &str) -> io::Result<()> {
        self.call(call, name).map_err(|_| failure())
    }
}

fn failure() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl Inner {
    fn record(&mut self, operation: Operation) {
        if self.is_recording {
            self.operations.push(operation);
        }
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

struct Unlock(Arc<AtomicBool>);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Disk for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn lock(&self) -> io::Result<Lock> {
        if self.locked.swap(true, Ordering::SeqCst) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Unlock(Arc::clone(&self.locked))))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let inner = self.inner.lock().unwrap();
        Ok(inner.names.iter().map(|(name, file)| (name.clone(), inner.files[*file].len() as u64)).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Appending>> {
        self.checked(Call::Create, name)?;
        let mut inner = self.inner.lock().unwrap();
        if inner.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = inner.files.len();
        inner.files.push(Vec::new());
        inner.names.insert(name.to_owned(), file);
        inner.record(Operation::Create { name: name.to_owned(), file });
        Ok(Box::new(Writing { disk: self.clone(), name: name.to_owned(), file }))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Appending>> {
        let file = self.inner.lock().unwrap().file(name)?;
        Ok(Box::new(Writing { disk: self.clone(), name: name.to_owned(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Reading>> {
        let mut inner = self.inner.lock().unwrap();
        let bytes = inner.files[inner.file(name)?].clone();
        inner.opened.push(name.to_owned());
        let is_readable = !inner.unreadable.iter().any(|other| other == name);
        Ok(Arc::new(Bytes { bytes, is_readable }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.checked(Call::Rename, to)?;
        let mut inner = self.inner.lock().unwrap();
        let file = inner.file(from)?;
        inner.names.remove(from);
        inner.names.insert(to.to_owned(), file);
        inner.record(Operation::Rename { from: from.to_owned(), to: to.to_owned(), file });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.checked(Call::Remove, name)?;
        let mut inner = self.inner.lock().unwrap();
        inner.file(name)?;
        inner.names.remove(name);
        inner.record(Operation::Remove { name: name.to_owned() });
        Ok(())
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        self.checked(Call::Truncate, name)?;
        let mut inner = self.inner.lock().unwrap();
        let file = inner.file(name)?;
        let length = length as usize;
        inner.files[file].resize(length, 0);
        inner.record(Operation::Truncate { file, length });
        inner.record(Operation::Sync { file });
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.checked(Call::SyncNames, "")?;
        self.inner.lock().unwrap().record(Operation::SyncNames);
        Ok(())
    }
}

/// The system's error for a place of a disk that cannot be read.
const EIO: i32 = 5;

struct Bytes {
    bytes: Vec<u8>,
    is_readable: bool,
}

impl Reading for Bytes {
    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if !self.is_readable {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let from = offset as usize;
        let bytes = self.bytes.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

struct Writing {
    disk: Memory,
    name: String,
    file: usize,
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let outcome = self.disk.call(Call::Write, &self.name);
        let length = outcome.err().unwrap_or(bytes.len()).min(bytes.len());
        let bytes = &bytes[..length];
        let mut inner = self.disk.inner.lock().unwrap();
        inner.files[self.file].extend_from_slice(bytes);
        inner.record(Operation::Write { file: self.file, bytes: bytes.to_vec() });
        if outcome.is_err() { Err(failure()) } else { Ok(length) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Appending for Writing {
    fn sync(&mut self) -> io::Result<()> {
        self.disk.checked(Call::Sync, &self.name)?;
        self.disk.inner.lock().unwrap().record(Operation::Sync { file: self.file });
        Ok(())
    }
}
