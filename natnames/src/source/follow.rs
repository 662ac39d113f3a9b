//! Follows one file: through appending, truncation, replacement and removal.
//!
//! A source that reads its file anew on each change needs [`Watch`] and [`Lines`](super::lines::Lines):
//!
//! ```text
//! let mut watch = Watch::new(path)?;
//! let mut file = watch.first_open(outlet)?;
//! loop {
//!     … a whole list, from Lines::new(file) …
//!     outlet.note_read();
//!     watch.wait_for_quiet(outlet)?;
//!     file = watch.reopen(outlet)?;
//! }
//! ```

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::outlet::Outlet;
use crate::time::Millis;

/// A writer that is at it has paused when nothing happened for this long.
const QUIET: Duration = Duration::from_millis(20);
/// A file that is written all the time is read after this time nevertheless.
const LONGEST_UNREST: Duration = Duration::from_secs(1);
/// A file that is removed and made again is away for less than this.
const GRACE: Duration = Duration::from_secs(1);
/// A symbolic link to nothing: the folder of its target is not watched, so it is looked at this often.
const DANGLING: Duration = Duration::from_secs(1);

/// Which file it is, whatever its name.
pub(crate) type Identity = (u64, u64);

/// Tells which file it is. As long as it is open, no other has its identity.
pub(crate) fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// An error with its path in front.
pub(crate) fn at_path(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// Opens a regular file to read. `None` if there is none. Never blocks: a FIFO is an error.
pub(crate) fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at_path(path, error)),
    };
    let metadata = file.metadata().map_err(|error| at_path(path, error))?;
    if !metadata.is_file() {
        return Err(at_path(path, "this is not a regular file, but one was expected: correct the path"));
    }
    Ok(Some(file))
}

/// Tells when something changes at a path: the file there is written, truncated, replaced, removed or made.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    inotify: OwnedFd,
    folder: i32,
    file: Option<i32>,
    /// When it was last waited for something. What has happened since then is not known.
    waited: Option<Millis>,
}

impl Watch {
    /// Watches a path. There need not be a file yet, but its folder.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(watch_error)?;
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let folder = inotify::add_watch(&inotify, folder, flags).map_err(|error| match error {
            Errno::NOENT => at_path(path, "its folder does not exist: correct the path, or make the folder"),
            error => at_path(folder, watch_error(error)),
        })?;
        let mut this = Self { path: path.to_owned(), inotify, folder, file: None, waited: None };
        this.watch_file()?;
        Ok(this)
    }

    /// Opens the file at the path. `None` if there is none.
    pub(crate) fn open(&self) -> io::Result<Option<File>> {
        open(&self.path)
    }

    /// Opens the file at the path. As long as there is none, it is waited for.
    pub(crate) fn first_open(&mut self, outlet: &Outlet) -> io::Result<File> {
        if let Some(file) = self.open()? {
            return Ok(file);
        }
        log::info!("names: {}: there is no such file yet; it is waited for", self.path.display());
        loop {
            if let Some(file) = self.open_within(outlet, None)? {
                return Ok(file);
            }
        }
    }

    fn open_within(&mut self, outlet: &Outlet, timeout: Option<Duration>) -> io::Result<Option<File>> {
        let begun = Instant::now();
        loop {
            if let Some(file) = self.open()? {
                return Ok(Some(file));
            }
            let left = timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            self.wait(outlet, left)?;
        }
    }

    /// Opens the file at the path. One that is away for a moment is waited for; it is an error if it stays away.
    pub(crate) fn reopen(&mut self, outlet: &Outlet) -> io::Result<File> {
        self.open_within(outlet, Some(GRACE))?.ok_or_else(|| at_path(&self.path, "the file was removed"))
    }

    /// Waits until the file at the path was written, or until another one or none is there, for at most this time.
    /// Returns whether that happened; it can also return without.
    pub(crate) fn wait(&mut self, outlet: &Outlet, timeout: Option<Duration>) -> io::Result<bool> {
        let is_dangling = self.file.is_none() && self.path.is_symlink();
        let at_most =
            if is_dangling { Some(timeout.map_or(DANGLING, |own| own.min(DANGLING))) } else { timeout };
        let is_old = outlet.wait(&[&self.inotify], Some(Duration::ZERO))?;
        let was_written = (is_old || outlet.wait(&[&self.inotify], at_most)?) && self.read_events()?;
        // The file is watched before the caller reads it, so that nothing after that is missed.
        let is_news = self.watch_file()? || was_written;
        let now = outlet.now();
        let before = self.waited.replace(now);
        if is_news {
            outlet.note_unread(before.filter(|_| is_old).unwrap_or(now));
        }
        Ok(is_news)
    }

    /// Waits until something changed, and then until the writer has paused: one that rewrites its file in place would
    /// be read while it is half done.
    pub(crate) fn wait_for_quiet(&mut self, outlet: &Outlet) -> io::Result<()> {
        while !self.wait(outlet, None)? {}
        let begun = Instant::now();
        while begun.elapsed() < LONGEST_UNREST && self.wait(outlet, Some(QUIET))? {}
        Ok(())
    }

    /// Returns whether something happened to the file.
    fn read_events(&mut self) -> io::Result<bool> {
        let mut was_written = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(was_written),
                Err(error) => return Err(watch_error(error)),
            };
            let gone =
                ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
            if event.wd() == self.folder && event.events().intersects(gone) {
                return Err(at_path(&self.path, "its folder was moved or removed"));
            }
            let is_file = Some(event.wd()) == self.file;
            was_written |= is_file || event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            if is_file && event.events().contains(ReadFlags::IGNORED) {
                self.file = None;
            }
        }
    }

    /// Watches the file that is at the path now. A watch of the folder alone would not do: the path can be a symbolic
    /// link, a hard link, or a mount of a single file. Returns whether it is another file than before.
    fn watch_file(&mut self) -> io::Result<bool> {
        let flags = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF;
        let watch = match inotify::add_watch(&self.inotify, &self.path, flags) {
            Ok(watch) => Some(watch),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(at_path(&self.path, watch_error(error))),
        };
        if let Some(old) = self.file.filter(|old| Some(*old) != watch) {
            // It is gone already if the file is.
            let _ = inotify::remove_watch(&self.inotify, old);
        }
        Ok(std::mem::replace(&mut self.file, watch) != watch)
    }
}

fn watch_error(error: Errno) -> io::Error {
    match error {
        Errno::MFILE => io::Error::other("no more inotify instances: raise fs.inotify.max_user_instances"),
        Errno::NOSPC => io::Error::other("no more inotify watches: raise fs.inotify.max_user_watches"),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outlet::testing::Heard;
    use std::fs;
    use std::sync::Arc;

    const LONG: Option<Duration> = Some(Duration::from_secs(20));

    #[test]
    fn each_kind_of_change_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases");
        let (outlet, _stop) = Arc::<Heard>::default().outlet();
        let mut watch = Watch::new(&path).unwrap();
        assert!(watch.open().unwrap().is_none());
        let told = |watch: &mut Watch| {
            let begun = Instant::now();
            while !watch.wait(&outlet, LONG).unwrap() {
                assert!(begun.elapsed() < Duration::from_secs(20));
            }
            // The rest of what one change causes.
            while watch.wait(&outlet, Some(Duration::from_millis(5))).unwrap() {}
            watch.open().unwrap().map(|file| io::read_to_string(file).unwrap())
        };
        fs::write(&path, "one").unwrap();
        assert_eq!(told(&mut watch).as_deref(), Some("one"));
        fs::write(&path, "two").unwrap();
        assert_eq!(told(&mut watch).as_deref(), Some("two"));
        fs::write(folder.path().join("new"), "three").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(told(&mut watch).as_deref(), Some("three"));
        fs::write(&path, "four").unwrap();
        assert_eq!(told(&mut watch).as_deref(), Some("four"));
        fs::remove_file(&path).unwrap();
        assert_eq!(told(&mut watch), None);
        fs::write(&path, "five").unwrap();
        assert_eq!(told(&mut watch).as_deref(), Some("five"));
        // Other files in its folder are none of its business.
        fs::write(folder.path().join("other"), "six").unwrap();
        assert!(!watch.wait(&outlet, Some(Duration::from_millis(5))).unwrap());
        fs::remove_dir_all(folder.path()).unwrap();
        let error = loop {
            if let Err(error) = watch.wait(&outlet, LONG) {
                break error.to_string();
            }
        };
        assert!(error.contains("folder was moved or removed"), "{error}");
        let error = Watch::new(&path).unwrap_err().to_string();
        assert!(error.contains("its folder does not exist"), "{error}");
    }

    #[test]
    fn a_link_whose_target_is_replaced_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("link"), tempfile::tempdir().unwrap());
        let target = target.path().join("leases");
        fs::write(&target, "one").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let (outlet, _stop) = Arc::<Heard>::default().outlet();
        let mut watch = Watch::new(&path).unwrap();
        let open = watch.first_open(&outlet).unwrap();
        fs::write(target.with_extension("new"), "two").unwrap();
        fs::rename(target.with_extension("new"), &target).unwrap();
        while !watch.wait(&outlet, LONG).unwrap() {}
        assert_eq!(io::read_to_string(watch.reopen(&outlet).unwrap()).unwrap(), "two");
        drop(open);
        fs::remove_file(&target).unwrap();
        fs::write(&target, "three").unwrap();
        while !watch.wait(&outlet, LONG).unwrap() {}
        assert_eq!(io::read_to_string(watch.reopen(&outlet).unwrap()).unwrap(), "three");
    }

    #[test]
    fn what_is_not_a_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let error = open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        assert!(open(Path::new("/dev/zero")).is_err());
    }
}
