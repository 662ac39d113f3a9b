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

    fn taker(&mut self) -> Taker<'_> {
        Taker {
            path: &self.path,
            journal: &mut self.journal,
            blocks: Blocks::default(),
            unreadable: Unreadable::default(),
        }
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
        let path = self.path.clone();
        follow_lines(&path, outlet, &mut self.taker())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Report;
    use crate::outlet::testing::Heard;
    use crate::source::tail::testing::{Entry, check, deeds};
    use std::fs;
    use std::io::Write;
    use std::sync::Arc;

    fn write(entries: &[Entry], is_begin: bool) -> String {
        let begin = if is_begin { "# The format of this file\n" } else { "" };
        let block = |Entry { address, host, since, is_held }: &Entry| {
            let (ends, state) = if *is_held { (9_999_999_999, "active") } else { (since + 5, "released") };
            format!(
                "lease 10.0.0.{address} {{\n  starts epoch {since}; # x\n  ends epoch {ends};\n  binding state \
                 {state};\n  hardware ethernet 02:00:00:00:00:0{host};\n  client-hostname \"host{host}\";\n}}\n"
            )
        };
        begin.to_owned() + &entries.iter().map(block).collect::<String>()
    }

    proptest::proptest! {
        #[test]
        fn what_is_followed_is_what_the_file_has(deeds in deeds()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("dhcpd.leases");
            let (mut followed, mut fresh) = (Dhcpd::new(path.clone()), Dhcpd::new(path.clone()));
            check(&path, &deeds, write, &mut followed.taker(), &mut fresh.taker());
        }
    }

    fn follow_until(path: &Path, deed: impl FnOnce(&Heard)) -> Vec<Report> {
        let heard = Arc::<Heard>::default();
        let (outlet, stop) = heard.outlet();
        let mut source = Dhcpd::new(path.to_owned());
        std::thread::scope(|scope| {
            scope.spawn(|| source.follow(&outlet));
            heard.wait_until("the list", |reports| reports.last() == Some(&Report::ListEnds));
            deed(&heard);
            stop.stop();
        });
        heard.take_all()
    }

    #[test]
    fn what_dhcpd_wrote_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let reports = follow_until(&folder.join("dhcpd.leases"), |_| ());
        let ends = reports.iter().filter(|report| matches!(report, Report::Ends { .. })).count();
        assert_eq!((reports.len(), ends), (8, 3));
        let Report::Holds(claim) = &reports[1] else { panic!("{reports:?}") };
        assert_eq!(claim.host.name.as_deref(), Some("phone"));
        assert_eq!(claim.host.client_id.as_deref(), Some("01020000000901"));
        assert_eq!((claim.since, claim.until), (Some(1_795_825_227_000), Some(1_795_825_235_000)));
        let reports = follow_until(&folder.join("dhcpd6.leases"), |_| ());
        let Report::Holds(claim) = &reports[2] else { panic!("{reports:?}") };
        assert_eq!((reports.len(), claim.net.to_string().as_str()), (6, "fd00:a:f::/48"));
        assert_eq!(claim.host.client_id.as_deref(), Some("00010001329cdad8020000000901"));
        assert_eq!((claim.since, claim.until), (Some(1_795_825_241_000), Some(1_795_825_249_000)));
    }

    #[test]
    fn a_new_file_is_followed_after_the_end_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dhcpd.leases");
        let entry = |address, since, is_held| Entry { address, host: address, since, is_held };
        fs::write(&path, write(&[entry(1, 100, true)], true)).unwrap();
        let short = |reports: &[Report]| -> Vec<String> {
            let short = |report: &Report| match report {
                Report::ListBegins { missed_since } => format!("list {missed_since:?}"),
                Report::ListEnds | Report::Followed => "end".to_owned(),
                Report::Ends { net, at } => format!("{net} ends {at:?}"),
                Report::Stops { .. } => unreachable!("no lease says so"),
                Report::Holds(claim) => format!("{} {}", claim.net, claim.host.name.as_deref().unwrap()),
            };
            reports.iter().map(short).collect()
        };
        let all = follow_until(&path, |heard| {
            let append = |text: &str| {
                let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
                file.write_all(text.as_bytes()).unwrap();
            };
            let text = write(&[entry(2, 200, true)], false);
            let (first, second) = text.split_at(40);
            append(first);
            append(second);
            append(&write(&[entry(1, 100, false)], false));
            fs::write(path.with_extension("1"), write(&[entry(2, 200, true)], true)).unwrap();
            fs::hard_link(&path, path.with_extension("leases~")).unwrap();
            fs::rename(path.with_extension("1"), &path).unwrap();
            append(&write(&[entry(3, 300, true)], false));
            heard.wait_until("the last block", |reports| {
                let short = short(reports);
                short.contains(&"10.0.0.3/32 host3".to_owned())
                    && short.iter().filter(|said| *said == "end").count() == 2
            });
        });
        let mut all = short(&all);
        // It comes as the last one of the list, or after it.
        all.retain(|said| said != "10.0.0.3/32 host3");
        let expected = [
            "list None",
            "10.0.0.1/32 host1",
            "end",
            "10.0.0.2/32 host2",
            "10.0.0.1/32 ends Some(105000)",
            "list None",
            "10.0.0.2/32 host2",
            "end",
        ];
        assert_eq!(all, expected);
    }
}
