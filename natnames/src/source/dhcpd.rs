//! The leases of ISC dhcpd, for DHCPv4 and DHCPv6.
//!
//! dhcpd appends a block for each change. From time to time it writes a new file with one block for each lease, and
//! renames it over the old one.
//!
//! A block that was renewed has the time of its renewal as its begin.

use std::io;
use std::path::{Path, PathBuf};

use crate::outlet::Outlet;
use crate::source::Source;
use crate::source::dhcpd_blocks::Blocks;
use crate::source::journal::Journal;
use crate::source::lines::{Line, Unreadable};
use crate::source::tail::{Tail, Take, follow_lines};

/// The leases of ISC dhcpd in its lease file, such as `/var/lib/dhcp/dhcpd.leases`.
#[derive(Debug)]
pub struct Dhcpd {
    path: PathBuf,
    journal: Journal,
}

impl Dhcpd {
    /// Will follow the lease file at this path.
    pub fn new(path: PathBuf) -> Self {
        Self { path, journal: Journal::default() }
    }
}

impl Source for Dhcpd {
    fn name(&self) -> &'static str {
        "dhcpd"
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn follow(&mut self, outlet: &Outlet) -> io::Result<()> {
        let mut taker = Taker {
            path: &self.path,
            journal: &mut self.journal,
            blocks: Blocks::default(),
            unreadable: Unreadable::default(),
        };
        follow_lines(&self.path, outlet, &mut taker)
    }
}

struct Taker<'a> {
    path: &'a Path,
    journal: &'a mut Journal,
    blocks: Blocks,
    unreadable: Unreadable,
}

impl Take for Taker<'_> {
    fn begin(&mut self, tail: &mut Tail, outlet: &Outlet) -> io::Result<()> {
        drop(tail.take_previous());
        self.blocks = Blocks::default();
        self.unreadable = Unreadable::default();
        Ok(self.journal.begin_list(outlet)?)
    }

    fn line(&mut self, line: Line<'_>, outlet: &Outlet) -> io::Result<()> {
        let (Line::Whole(bytes) | Line::Unfinished(bytes) | Line::TooLong(bytes)) = line;
        let mut leases = Vec::new();
        let is_readable = match line {
            Line::TooLong(_) => {
                self.blocks.skip();
                false
            }
            _ => self.blocks.line(bytes, &mut leases),
        };
        if !is_readable {
            self.unreadable.note(bytes);
        }
        for lease in leases {
            self.journal.report(lease, outlet)?;
        }
        Ok(())
    }

    fn pause(&mut self, outlet: &Outlet) -> io::Result<()> {
        self.journal.end_list(outlet)?;
        self.unreadable.warn(self.path);
        Ok(())
    }
}
