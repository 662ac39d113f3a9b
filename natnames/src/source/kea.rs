//! The leases of Kea: its memfile, for DHCPv4 and DHCPv6.
//!
//! Kea appends a line for each change. From time to time ("Lease File Cleanup") it renames the file to `….1`, begins a new
//! one, and a process of its own merges `….2` and `….1` into `….completed`, which then becomes `….2`. So the leases are
//! those of `….completed`, or of `….2` and `….1` if that does not exist, and then those of the file itself: this is the
//! order in which Kea itself reads them when it starts.
//!
//! A line has the time of the client's last message and the lease's length. So the begin of a lease that was renewed
//! before it was first read is that of its last renewal.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::host::Host;
use crate::outlet::Outlet;
use crate::source::Source;
use crate::source::follow::{self, identity};
use crate::source::journal::{Journal, Lease};
use crate::source::lines::{Line, Lines, Unreadable};
use crate::source::tail::{Tail, Take, follow_lines};
use crate::time::Millis;

/// How often the older files are opened anew when they changed while they were opened.
const TRIES: u32 = 20;
/// The pause before that.
const PAUSE: Duration = Duration::from_millis(20);
/// A lease that does not end.
const INFINITE: u64 = u32::MAX as u64;

/// The leases of Kea in a memfile, such as `/var/lib/kea/kea-leases4.csv`.
#[derive(Debug)]
pub struct Kea {
    path: PathBuf,
    journal: Journal,
}

impl Kea {
    /// Will follow the memfile at this path.
    pub fn new(path: PathBuf) -> Self {
        Self { path, journal: Journal::default() }
    }

    fn taker(&mut self) -> Taker<'_> {
        Taker {
            path: &self.path,
            journal: &mut self.journal,
            columns: Columns::default(),
            unreadable: Unreadable::default(),
            has_begun: false,
        }
    }
}

impl Source for Kea {
    fn name(&self) -> &'static str {
        "kea"
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
    columns: Columns,
    unreadable: Unreadable,
    has_begun: bool,
}

impl Taker<'_> {
    fn older(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push(suffix);
        path.into()
    }

    /// Opens the files with older leases, in their order, and tells whether they and the file itself are all of one
    /// moment.
    fn open_older(&self, tail: &Tail) -> io::Result<(Vec<File>, bool)> {
        let paths = [".completed", ".2", ".1"].map(|suffix| self.older(suffix));
        let mut open = Vec::new();
        for path in &paths {
            open.push(follow::open(path)?);
        }
        let is_same = |path: &Path, file: Option<&File>| {
            let there = fs::metadata(path).ok().map(|metadata| identity(&metadata));
            there == file.and_then(|file| file.metadata().ok()).map(|metadata| identity(&metadata))
        };
        let is_one = paths.iter().zip(&open).all(|(path, file)| is_same(path, file.as_ref()))
            && fs::metadata(self.path).ok().map(|metadata| identity(&metadata)) == tail.identity();
        // The first has what the other two had.
        let from = if open.first().is_some_and(Option::is_some) { ..1 } else { ..3 };
        Ok((open.drain(from).flatten().collect(), is_one))
    }

    fn take(&mut self, line: Line<'_>, outlet: &Outlet) -> io::Result<()> {
        let (Line::Whole(bytes) | Line::Unfinished(bytes) | Line::TooLong(bytes)) = line;
        let text = std::str::from_utf8(bytes).ok().filter(|_| !matches!(line, Line::TooLong(_)));
        match text {
            Some("") => {}
            Some(text) if text.starts_with("address,") => self.columns = Columns::of(text),
            text => match text.and_then(|text| self.columns.lease(text)) {
                Some(lease) => self.journal.report(lease, outlet)?,
                None => self.unreadable.note(bytes),
            },
        }
        Ok(())
    }
}

impl Take for Taker<'_> {
    fn begin(&mut self, tail: &mut Tail, outlet: &Outlet) -> io::Result<()> {
        let previous = tail.take_previous().and_then(|file| file.metadata().ok());
        let previous = previous.map(|metadata| identity(&metadata));
        let renamed = fs::metadata(self.older(".1")).ok().map(|metadata| identity(&metadata));
        if self.has_begun && previous.is_some() && renamed == previous {
            // A cleanup: the file that was read to its end became `….1`, and this one goes on where it ended.
            return Ok(());
        }
        let mut older = self.open_older(tail)?;
        for _ in 0..TRIES {
            if older.1 {
                break;
            }
            // A cleanup is at it.
            outlet.wait(&[], Some(PAUSE))?;
            tail.restart();
            tail.step()?;
            older = self.open_older(tail)?;
        }
        self.has_begun = true;
        self.unreadable = Unreadable::default();
        self.journal.begin_list(outlet)?;
        for file in older.0 {
            self.columns = Columns::default();
            let mut lines = Lines::new(file);
            while let Some(line) = lines.next()? {
                self.take(line, outlet)?;
            }
        }
        self.columns = Columns::default();
        Ok(())
    }

    fn line(&mut self, line: Line<'_>, outlet: &Outlet) -> io::Result<()> {
        self.take(line, outlet)
    }

    fn pause(&mut self, outlet: &Outlet) -> io::Result<()> {
        self.journal.end_list(outlet)?;
        self.unreadable.warn(self.path);
        Ok(())
    }
}

/// Where the columns of a file are.
#[derive(Debug, Default)]
struct Columns {
    names: Vec<String>,
}

impl Columns {
    /// The columns of a header line.
    fn of(line: &str) -> Self {
        Self { names: line.split(',').map(|name| name.trim().to_owned()).collect() }
    }

    /// The lease of a line. `None` if it cannot be read.
    fn lease(&self, line: &str) -> Option<Lease> {
        let fields: Vec<&str> = line.split(',').collect();
        if fields.len() != self.names.len() {
            // Two lines of which the first was not written to its end, for instance.
            return None;
        }
        let field = |name: &str| {
            let place = self.names.iter().position(|column| column == name)?;
            fields.get(place).copied()
        };
        let address: IpAddr = field("address")?.parse().ok()?;
        let length: u64 = field("valid_lifetime")?.parse().ok()?;
        let expire: u64 = field("expire")?.parse().ok()?;
        let prefix = match field("lease_type") {
            Some("2" | "IA_PD") => field("prefix_len")?.parse().ok()?,
            _ if address.is_ipv4() => 32,
            _ => 128,
        };
        let net = IpNetwork::new(IpNetwork::new(address, prefix).ok()?.network(), prefix).ok()?;
        let since = millis(expire.checked_sub(length)?)?;
        let end = Some(millis(expire)?).filter(|_| length != INFINITE);
        let state = field("state").filter(|state| !state.is_empty()).unwrap_or("0");
        let mut host = Host {
            name: field("hostname").map(unescape).filter(|name| !name.is_empty()),
            mac: field("hwaddr").and_then(|mac| mac.parse().ok()),
            client_id: field("duid").or(field("client_id")).and_then(hex),
            ..Host::default()
        };
        let until = match state {
            "0" if length > 0 => end,
            // Declined: from the moment of the line on, nobody has it. It does not say who had it.
            "1" => {
                host = Host::default();
                Some(since)
            }
            // Removed or released at some moment after `since`, which the line does not have.
            _ if length == 0 => None,
            _ => end,
        };
        Some(Lease { net, host, since: Some(since), until, is_held: state == "0" && length > 0 })
    }
}

fn millis(seconds: u64) -> Option<Millis> {
    Millis::try_from(seconds).ok()?.checked_mul(1_000)
}

/// Digits without what separates them. A declined lease of DHCPv6 has an empty DUID, of zeros.
fn hex(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    let is_hex = digits.chars().all(|c| c.is_ascii_hexdigit());
    (is_hex && digits.chars().any(|c| c != '0')).then_some(digits)
}

/// A host name, whose special characters are written as `&#x2c`. The dot at the end of a full name is left out.
fn unescape(text: &str) -> String {
    let mut unescaped = String::new();
    let mut parts = text.split("&#x");
    unescaped.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let code = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                unescaped.push(char::from(code));
                unescaped.push_str(part.get(2..).unwrap_or_default());
            }
            None => unescaped.extend(["&#x", part]),
        }
    }
    unescaped.strip_suffix('.').unwrap_or(&unescaped).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Report;
    use crate::outlet::testing::Heard;
    use crate::source::tail::testing::{Entry, check, deeds};
    use std::io::Write;
    use std::sync::Arc;

    const V4: &str = "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,\
                      user_context,pool_id";
    const V6: &str = "address,duid,valid_lifetime,expire,subnet_id,pref_lifetime,lease_type,iaid,prefix_len,\
                      fqdn_fwd,fqdn_rev,hostname,hwaddr,state,user_context,hwtype,hwaddr_source,pool_id";

    #[test]
    fn lines_are_parsed_by_the_names_of_their_columns() {
        let lease = |header: &str, line: &str| Columns::of(header).lease(line).unwrap();
        let phone = lease(
            V4,
            "192.0.2.7,00:16:3e:5a:01:2f,01:00:16:3E:5a:01:2f,600,1795774200,1,0,0,ph&#x2cone.lan.,0,,0",
        );
        let host = Host {
            mac: Some("00:16:3e:5a:01:2f".parse().unwrap()),
            client_id: Some("0100163e5a012f".to_owned()),
            ..Host::named("ph,one.lan")
        };
        let expected = Lease {
            net: "192.0.2.7/32".parse().unwrap(),
            host,
            since: Some(1_795_773_600_000),
            until: Some(1_795_774_200_000),
            is_held: true,
        };
        assert_eq!(phone, expected);
        let short = lease("address,expire,valid_lifetime,hwaddr", "192.0.2.7,1795774200,600,");
        assert_eq!((short.until, short.is_held, short.host.is_empty()), (phone.until, true, true));
        let state = |length, state| {
            let expire = 1_795_773_600 + length;
            let lease =
                lease(V4, &format!("192.0.2.7,00:16:3e:5a:01:2f,,{length},{expire},1,0,0,phone,{state},,0"));
            (lease.is_held, lease.until.map(|until| until - 1_795_773_600_000), lease.host.is_empty())
        };
        assert_eq!(state(u64::from(u32::MAX), 0), (true, None, false));
        assert_eq!(state(0, 0), (false, None, false));
        assert_eq!(state(600, 1), (false, Some(0), true));
        assert_eq!(state(600, 2), (false, Some(600_000), false));
        assert_eq!(state(0, 3), (false, None, false));
        let prefix =
            lease(V6, "2001:db8:1::,00:03:00:01:00:16:3e:5a:01:2f,600,1795774200,1,300,2,1,48,0,0,,,0,,,,0");
        assert_eq!(prefix.net.to_string(), "2001:db8:1::/48");
        assert_eq!(prefix.host.client_id.as_deref(), Some("0003000100163e5a012f"));
        for line in ["", "192.0.2.7", "192.0.2.7,,,600,5,1,0,0,,0,,0", "x,,,600,1795774200,1,0,0,,0,,0"] {
            assert_eq!(Columns::of(V4).lease(line), None, "{line}");
        }
        assert_eq!(Columns::default().lease("192.0.2.7,,,600,1795774200,1,0,0,,0,,0"), None);
        assert_eq!(
            ["a&#x2cb", "&#x", "&#xzz.", "&#x2"].map(unescape),
            ["a,b", "&#x", "&#xzz", "&#x2"].map(str::to_owned)
        );
    }

    fn write(entries: &[Entry], is_begin: bool) -> String {
        let begin = if is_begin { format!("{V4}\n") } else { String::new() };
        let line = |Entry { address, host, since, is_held }: &Entry| {
            let (length, state) = match (is_held, host) {
                (true, _) => (4_000_000_000, 0),
                (false, 0) => (0, 0),
                (false, _) => (5, 2),
            };
            let end = since + length;
            format!("10.0.0.{address},02:00:00:00:00:0{host},,{length},{end},1,0,0,host{host},{state},,0\n")
        };
        begin + &entries.iter().map(line).collect::<String>()
    }

    proptest::proptest! {
        #[test]
        fn what_is_followed_is_what_the_file_has(deeds in deeds()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("kea-leases4.csv");
            let (mut followed, mut fresh) = (Kea::new(path.clone()), Kea::new(path.clone()));
            check(&path, &deeds, write, &mut followed.taker(), &mut fresh.taker());
        }
    }

    fn line(address: u8, name: &str, since: i64, length: i64, state: u8) -> String {
        let end = since + length;
        format!("10.0.0.{address},02:00:00:00:00:0{address},,{length},{end},1,0,0,{name},{state},,0\n")
    }

    /// What a fresh source says of a file, in short.
    fn read(path: &Path) -> Vec<String> {
        let heard = Arc::<Heard>::default();
        let (outlet, stop) = heard.outlet();
        let mut source = Kea::new(path.to_owned());
        std::thread::scope(|scope| {
            scope.spawn(|| source.follow(&outlet));
            heard.wait_until("the list", |reports| reports.last() == Some(&Report::ListEnds));
            stop.stop();
        });
        short(heard.take_all())
    }

    fn short(reports: Vec<Report>) -> Vec<String> {
        let seconds = |at: Option<Millis>| at.map_or("?".to_owned(), |at| (at / 1_000).to_string());
        let short = |report| match report {
            Report::ListBegins { .. } => "list".to_owned(),
            Report::ListEnds | Report::Followed => "end".to_owned(),
            Report::Ends { net, at } => format!("{} ends {}", net.ip(), seconds(at)),
            Report::Stops { .. } => unreachable!("no lease says so"),
            Report::Holds(claim) => {
                let name = claim.host.name.unwrap_or_default();
                format!("{} {name} {}-{}", claim.net.ip(), seconds(claim.since), seconds(claim.until))
            }
        };
        reports.into_iter().map(short).collect()
    }

    #[test]
    fn what_kea_wrote_is_read() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/kea-leases4.csv"));
        let expected = [
            "list",
            "10.9.9.10  1795825201-1795825205",
            "10.9.9.10 ends 1795825205",
            "10.9.9.11  1795825201-1795825205",
            "10.9.9.11 ends 1795825205",
            "10.9.9.12 a 1795825206-1795825210",
            "end",
        ];
        assert_eq!(read(path), expected);
    }

    #[test]
    fn a_cleanup_loses_nothing_at_any_of_its_steps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kea-leases4.csv");
        let at = |suffix: &str| folder.path().join(format!("kea-leases4.csv{suffix}"));
        let begin = format!("{V4}\n");
        let old = begin.clone() + &line(1, "old", 100, 9_999_999_999, 0);
        let renamed =
            begin.clone() + &line(2, "two", 200, 9_999_999_999, 0) + &line(1, "one", 300, 9_999_999_999, 0);
        let merged =
            begin.clone() + &line(1, "one", 300, 9_999_999_999, 0) + &line(2, "two", 200, 9_999_999_999, 0);
        fs::write(at(".2"), &old).unwrap();
        fs::write(&path, &renamed).unwrap();
        let heard = Arc::<Heard>::default();
        let (outlet, stop) = heard.outlet();
        let mut source = Kea::new(path.clone());
        let last = |reports: &[Report]| short(reports.to_vec()).last().cloned().unwrap_or_default();
        let append = |text: &str| {
            fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        };
        let held = || {
            let mut held: Vec<String> =
                read(&path).into_iter().filter(|said| !said.contains("old")).collect();
            held.sort();
            held.dedup();
            held
        };
        std::thread::scope(|scope| {
            scope.spawn(|| source.follow(&outlet));
            heard.wait_until("the list", |reports| last(reports) == "end");
            let before = held();
            assert_eq!(
                before,
                ["10.0.0.1 one 300-10000000299", "10.0.0.2 two 200-10000000199", "end", "list"]
            );
            heard.take_all();
            // The last line of the old file is not lost.
            append(&line(3, "three", 400, 9_999_999_999, 0));
            fs::rename(&path, at(".1")).unwrap();
            fs::write(&path, &begin).unwrap();
            append(&line(2, "", 200, 0, 0));
            heard.wait_until("the line after the cleanup", |reports| last(reports) == "10.0.0.2 ends ?");
            let mut after = before.clone();
            after[1] = "10.0.0.2 ends 400".to_owned();
            after.insert(2, "10.0.0.2 two 200-10000000199".to_owned());
            after.insert(3, "10.0.0.3 three 400-10000000399".to_owned());
            assert_eq!(held(), after);
            fs::write(at(".output"), merged + &line(3, "three", 400, 9_999_999_999, 0)).unwrap();
            assert_eq!(held(), after);
            fs::rename(at(".output"), at(".completed")).unwrap();
            assert_eq!(held(), after);
            fs::remove_file(at(".2")).unwrap();
            assert_eq!(held(), after);
            fs::remove_file(at(".1")).unwrap();
            assert_eq!(held(), after);
            fs::rename(at(".completed"), at(".2")).unwrap();
            assert_eq!(held(), after);
            append(&line(4, "four", 500, 9_999_999_999, 0));
            let said = heard.wait_until("the last line", |reports| last(reports).contains("four"));
            let expected =
                ["10.0.0.3 three 400-10000000399", "10.0.0.2 ends ?", "10.0.0.4 four 500-10000000499"];
            assert_eq!(short(said), expected);
            // A file that Kea did not rename is another list, with the older files before it.
            heard.take_all();
            fs::write(at(".new"), &begin).unwrap();
            fs::rename(at(".new"), &path).unwrap();
            let said = heard.wait_until("the second list", |reports| last(reports) == "end");
            let mut said = short(said);
            said.sort();
            // Only the older files have this lease now, as one that was not removed.
            assert!(said.contains(&"10.0.0.2 two 200-10000000199".to_owned()), "{said:?}");
            assert!(said.contains(&"10.0.0.1 one 300-10000000299".to_owned()), "{said:?}");
            assert!(!said.iter().any(|said| said.contains("four")), "{said:?}");
            stop.stop();
        });
    }
}
