//! Follows a file that is appended to, line by line.
//!
//! Its writer replaces it by another one at times. What is still written into the old one until then is read before the
//! new one begins, so that nothing is lost in between.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::outlet::Outlet;
use crate::source::follow::{self, Identity, Watch, at_path, identity};
use crate::source::lines::{Line, Splitter};

/// What is read at once.
const CHUNK: usize = 64 << 10;
/// The begin of the file, and the last that was read of it, are kept to notice that it was written anew in place.
const KEPT: usize = 4 << 10;
/// A file that is removed and made again is away for less than this.
const GRACE: Duration = Duration::from_secs(1);

/// What comes next in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A file is read from its begin: the first one, or another, or the same that was truncated or written anew.
    /// What was read before is not in it.
    Begins,
    /// The next line: [`Tail::line`].
    Line,
    /// Everything was read.
    End,
    /// Everything was read, and there is no file at the path any more.
    Gone,
}

#[derive(Debug)]
struct Open {
    file: File,
    identity: Identity,
    /// Where the next chunk is.
    offset: u64,
    head: Vec<u8>,
    last: Vec<u8>,
    /// Another file is at the path. What was written into this one until then is read first.
    is_replaced: bool,
    /// Whether it was checked since the last pause that what was read is still there.
    is_checked: bool,
}

/// Reads a file line by line through everything that happens to it. It does not wait: [`follow_lines`] does.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    open: Option<Open>,
    /// The file before, until it is asked for.
    previous: Option<File>,
    chunk: Vec<u8>,
    /// What of the chunk was not looked at.
    rest: std::ops::Range<usize>,
    splitter: Splitter,
}

impl Tail {
    /// Will read the file at this path.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            open: None,
            previous: None,
            chunk: vec![0; CHUNK],
            rest: 0..0,
            splitter: Splitter::default(),
        }
    }

    /// The line that was read last.
    pub(crate) fn line(&self) -> Line<'_> {
        self.splitter.line()
    }

    /// Which file is read.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.open.as_ref().map(|open| open.identity)
    }

    /// The file that was read before, to its end, if another one has replaced it.
    pub(crate) fn take_previous(&mut self) -> Option<File> {
        self.previous.take()
    }

    /// Reads the file at the path from its begin again.
    pub(crate) fn restart(&mut self) {
        self.open = None;
        self.previous = None;
        self.forget_rest();
    }

    fn forget_rest(&mut self) {
        self.rest = 0..0;
        self.splitter.clear();
    }

    /// What comes next.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        loop {
            if !self.rest.is_empty() {
                let bytes = self.chunk.get(self.rest.clone()).unwrap_or_default();
                let (taken, is_whole) = self.splitter.take(bytes);
                self.rest.start += taken.max(1);
                if is_whole {
                    return Ok(Step::Line);
                }
                continue;
            }
            let Some(open) = &mut self.open else {
                let Some(file) = follow::open(&self.path)? else { return Ok(Step::Gone) };
                self.open = Some(Open::new(file)?);
                self.forget_rest();
                return Ok(Step::Begins);
            };
            let is_intact =
                open.is_checked || open.is_intact().map_err(|error| at_path(&self.path, error))?;
            if !is_intact {
                open.restart();
                self.forget_rest();
                return Ok(Step::Begins);
            }
            open.is_checked = true;
            let read = open.file.read_at(&mut self.chunk, open.offset);
            let read = read.map_err(|error| at_path(&self.path, error))?;
            if read > 0 {
                open.note(&self.chunk[..read]);
                self.rest = 0..read;
                continue;
            }
            if open.is_replaced {
                self.previous = self.open.take().map(|open| open.file);
                continue;
            }
            let now = match fs::metadata(&self.path) {
                Ok(metadata) => Some(identity(&metadata)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(at_path(&self.path, error)),
            };
            if now == Some(open.identity) || now.is_none() {
                if open.file.metadata()?.len() < open.offset {
                    open.is_checked = false;
                    continue;
                }
                open.is_checked = false;
                return Ok(if now.is_none() { Step::Gone } else { Step::End });
            }
            open.is_replaced = true;
        }
    }
}

impl Open {
    fn new(file: File) -> io::Result<Self> {
        let identity = identity(&file.metadata()?);
        Ok(Self {
            file,
            identity,
            offset: 0,
            head: Vec::new(),
            last: Vec::new(),
            is_replaced: false,
            is_checked: false,
        })
    }

    fn restart(&mut self) {
        self.offset = 0;
        self.head.clear();
        self.last.clear();
        self.is_checked = true;
    }

    /// Notes what was read.
    fn note(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        let room = KEPT.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        self.last.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT)..]);
        let surplus = self.last.len().saturating_sub(KEPT);
        self.last.drain(..surplus);
    }

    /// Whether what was read is still there. One that was truncated can have grown beyond its former length since.
    fn is_intact(&self) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.offset {
            return Ok(false);
        }
        let is_there = |bytes: &[u8], offset: u64| {
            let mut now = vec![0; bytes.len()];
            match self.file.read_exact_at(&mut now, offset) {
                Ok(()) => Ok(now == bytes),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
                Err(error) => Err(error),
            }
        };
        Ok(is_there(&self.head, 0)? && is_there(&self.last, self.offset - self.last.len() as u64)?)
    }
}

/// Takes the lines of a file.
pub(crate) trait Take {
    /// A file begins: see [`Step::Begins`].
    fn begin(&mut self, tail: &mut Tail, outlet: &Outlet) -> io::Result<()>;

    /// A line; it is never unfinished.
    fn line(&mut self, line: Line<'_>, outlet: &Outlet) -> io::Result<()>;

    /// Everything that there is was read.
    fn pause(&mut self, outlet: &Outlet) -> io::Result<()>;
}

/// Reads everything that there is. Returns whether there is a file at the path.
fn read_all(tail: &mut Tail, outlet: &Outlet, taker: &mut dyn Take) -> io::Result<bool> {
    loop {
        match tail.step()? {
            Step::Begins => taker.begin(tail, outlet)?,
            Step::Line => taker.line(tail.line(), outlet)?,
            Step::End => {
                taker.pause(outlet)?;
                return Ok(true);
            }
            Step::Gone => return Ok(false),
        }
    }
}

/// Follows the lines of a file until an error, or until the outlet is stopped. A file that is not there yet is waited
/// for; it is an error if it is removed for longer than a moment.
pub(crate) fn follow_lines(path: &Path, outlet: &Outlet, taker: &mut dyn Take) -> io::Result<()> {
    let mut watch = Watch::new(path)?;
    drop(watch.first_open(outlet)?);
    let mut tail = Tail::new(path);
    let mut gone_since: Option<Instant> = None;
    loop {
        if read_all(&mut tail, outlet, taker)? {
            gone_since = None;
            outlet.note_read();
            watch.wait(outlet, None)?;
            continue;
        }
        let left = GRACE.saturating_sub(gone_since.get_or_insert_with(Instant::now).elapsed());
        if left.is_zero() {
            return Err(at_path(path, "the file was removed"));
        }
        watch.wait(outlet, Some(left))?;
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::book::{Book, Limits};
    use crate::claim::Report;
    use crate::outlet::testing::Heard;
    use proptest::prelude::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::Arc;

    /// Something that a server writes of one of four addresses.
    #[derive(Debug, Clone)]
    pub(crate) struct Entry {
        pub(crate) address: u8,
        pub(crate) host: u8,
        /// In seconds.
        pub(crate) since: i64,
        pub(crate) is_held: bool,
    }

    /// What happens to a file.
    #[derive(Debug, Clone)]
    pub(crate) enum Deed {
        /// In two writes.
        Append(Vec<Entry>, prop::sample::Index, bool),
        Rename(Vec<Entry>),
        Rewrite(Vec<Entry>, bool),
        Truncate(prop::sample::Index),
        RemoveAndMake(Vec<Entry>, bool),
        Look,
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let entry = (0..4_u8, 0..4_u8, 1..60_i64, prop::bool::weighted(0.7));
        let entry = entry.prop_map(|(address, host, since, is_held)| Entry { address, host, since, is_held });
        prop::collection::vec(entry, 0..8)
    }

    pub(crate) fn deeds() -> impl Strategy<Value = Vec<Deed>> {
        let deed = prop_oneof![
            4 => (entries(), any::<prop::sample::Index>(), any::<bool>())
                .prop_map(|(entries, cut, looks)| Deed::Append(entries, cut, looks)),
            1 => entries().prop_map(Deed::Rename),
            1 => (entries(), any::<bool>()).prop_map(|(entries, looks)| Deed::Rewrite(entries, looks)),
            1 => any::<prop::sample::Index>().prop_map(Deed::Truncate),
            1 => (entries(), any::<bool>()).prop_map(|(entries, looks)| Deed::RemoveAndMake(entries, looks)),
            4 => Just(Deed::Look),
        ];
        prop::collection::vec(deed, 1..14)
    }

    /// Who has the four addresses, by what was heard.
    fn hosts(book: &mut Book, heard: &Heard) -> Vec<Option<String>> {
        let now = crate::time::wall_clock();
        heard.take_all().into_iter().for_each(|report: Report| book.apply(0, report, now));
        let host = |last| {
            let found = book.at([10, 0, 0, last].into(), now + 10_000).found;
            found.map(|found| format!("{:?}", found.fact.host))
        };
        (0..4).map(host).collect()
    }

    fn new_book() -> Book {
        Book::new(Limits { facts: 10_000, keep: 1_000_000 }, &[("leases", "/leases")], 0)
    }

    /// Whether what is known after following these deeds is what the file then has. `write` writes entries, after what a
    /// file begins with if so asked.
    pub(crate) fn check(
        path: &Path,
        deeds: &[Deed],
        write: fn(&[Entry], bool) -> String,
        followed: &mut dyn Take,
        fresh: &mut dyn Take,
    ) {
        let heard = Arc::<Heard>::default();
        let (outlet, _stop) = heard.outlet();
        let mut book = new_book();
        let mut tail = Tail::new(path);
        fs::write(path, write(&[], true)).unwrap();
        let append = |text: &str| {
            let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let mut look = |looks: bool| {
            if looks {
                read_all(&mut tail, &outlet, followed).unwrap();
            }
        };
        for deed in deeds {
            match deed {
                Deed::Append(entries, cut, looks) => {
                    let text = write(entries, false);
                    let (first, second) = text.split_at(cut.index(text.len() + 1));
                    append(first);
                    look(*looks);
                    append(second);
                }
                Deed::Rename(entries) => {
                    let new = path.with_extension("new");
                    fs::write(&new, write(entries, true)).unwrap();
                    fs::rename(&new, path).unwrap();
                }
                Deed::Rewrite(entries, looks) => {
                    OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
                    look(*looks);
                    append(&write(entries, true));
                }
                Deed::Truncate(length) => {
                    let file = OpenOptions::new().write(true).open(path).unwrap();
                    let all = file.metadata().unwrap().len();
                    file.set_len(length.index(all as usize + 1) as u64).unwrap();
                }
                Deed::RemoveAndMake(entries, looks) => {
                    fs::remove_file(path).unwrap();
                    look(*looks);
                    append(&write(entries, true));
                }
                Deed::Look => look(true),
            }
        }
        look(true);
        let known = hosts(&mut book, &heard);
        read_all(&mut Tail::new(path), &outlet, fresh).unwrap();
        let there = hosts(&mut new_book(), &heard);
        assert_eq!(known, there, "{}", fs::read_to_string(path).unwrap());
    }
}
