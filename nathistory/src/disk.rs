//! The directory of a history, as a trait: tests put a disk below it that loses power, is full or slow.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The mode of files.
const FILE_MODE: u32 = 0o640;
/// The mode of the directory.
const DIRECTORY_MODE: u32 = 0o750;

/// What holds the lock of a directory until it is dropped.
pub type Lock = Box<dyn Send + Sync>;

/// One flat directory.
pub trait Disk: Debug + Send + Sync {
    /// Its name, for messages.
    fn name(&self) -> String;

    /// Locks the directory against other writers. Readers need no lock.
    ///
    /// # Errors
    /// `WouldBlock` if it is locked already, and those of the system.
    fn lock(&self) -> io::Result<Lock>;

    /// The names and sizes in bytes of its files.
    ///
    /// # Errors
    /// Those of the system.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Makes a new file.
    ///
    /// # Errors
    /// `AlreadyExists`, and those of the system.
    fn create(&self, name: &str) -> io::Result<Box<dyn Appending>>;

    /// Opens a file, to append to it.
    ///
    /// # Errors
    /// Those of the system.
    fn append(&self, name: &str) -> io::Result<Box<dyn Appending>>;

    /// Opens a file, to read it.
    ///
    /// # Errors
    /// Those of the system.
    fn open(&self, name: &str) -> io::Result<Arc<dyn Reading>>;

    /// Gives a file another name, and replaces what has it.
    ///
    /// # Errors
    /// Those of the system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Those of the system.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Cuts a file to this length in bytes, and syncs it.
    ///
    /// # Errors
    /// Those of the system.
    fn truncate(&self, name: &str, length: u64) -> io::Result<()>;

    /// Makes the names in the directory durable.
    ///
    /// # Errors
    /// Those of the system.
    fn sync_names(&self) -> io::Result<()>;
}

/// A file that is written at its end.
pub trait Appending: Write + Send {
    /// Makes what was written durable.
    ///
    /// # Errors
    /// Those of the system.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is read at any place.
pub trait Reading: Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> u64;

    /// Fills the buffer from an offset on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before, and those of the system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A directory of the system.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// A directory that exists, or is made now.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&path)?;
        Ok(Self { path })
    }

    /// A directory that exists, for reading.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn existing(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        if !fs::metadata(&path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { path })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Disk for Directory {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    // The directory itself is locked, so that the lock leaves no file, and ends with the process however that
    // ends.
    fn lock(&self) -> io::Result<Lock> {
        let directory = File::open(&self.path)?;
        rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(directory))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => {
                    files.push((entry.file_name().to_string_lossy().into_owned(), metadata.len()));
                }
                // It is gone already.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        files.sort();
        Ok(files)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Appending>> {
        let file =
            OpenOptions::new().append(true).create_new(true).mode(FILE_MODE).open(self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Appending>> {
        Ok(Box::new(OpenOptions::new().append(true).open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Reading>> {
        let file = File::open(self.path.join(name))?;
        let length = file.metadata()?.len();
        Ok(Arc::new(ReadFile { file, length }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        file.set_len(length)?;
        file.sync_data()
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Appending for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

struct ReadFile {
    file: File,
    length: u64,
}

impl Reading for ReadFile {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}
