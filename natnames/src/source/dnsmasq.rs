//! The leases of dnsmasq.
//!
//! dnsmasq (2.90 too) empties its lease file on each change, and writes it anew in place. So the file is read as a whole
//! when its writer has paused; if it is empty or its last line has no line feed then, a moment later.
//!
//! A line has the end of its lease, but not its begin. A dnsmasq that was compiled with `HAVE_BROKEN_RTC`, for devices
//! without a clock, writes the length of a lease in the place of its end: its file cannot be read here, as all its leases
//! seem to have ended.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::claim::{Claim, Report};
use crate::host::Host;
use crate::mac::Mac;
use crate::outlet::Outlet;
use crate::source::Source;
use crate::source::follow::{Watch, at_path};
use crate::source::lines::{Line, Lines, Unreadable};
use crate::time::Millis;

/// A file that looks half-written is read as it is after this time.
const PATIENCE: Duration = Duration::from_secs(1);
/// An address that occurs twice counts where it is first. This many are kept in mind for that.
const MOST_ADDRESSES: usize = 1_000_000;

/// The leases of dnsmasq in its lease file, such as `/var/lib/misc/dnsmasq.leases`.
#[derive(Debug)]
pub struct Dnsmasq {
    path: PathBuf,
}

impl Dnsmasq {
    /// Will follow the lease file at this path.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn list(&self, file: File, outlet: &Outlet) -> io::Result<()> {
        let mut unreadable = Unreadable::default();
        let mut seen: HashSet<IpAddr> = HashSet::new();
        let now = outlet.now();
        outlet.say(Report::ListBegins { missed_since: None })?;
        let mut lines = Lines::new(file);
        while let Some(line) = lines.next().map_err(|error| at_path(&self.path, error))? {
            let (bytes, parsed) = match line {
                Line::Whole(bytes) => (bytes, std::str::from_utf8(bytes).ok().and_then(parse)),
                Line::Unfinished(bytes) | Line::TooLong(bytes) => (bytes, None),
            };
            match parsed {
                None => unreadable.note(bytes),
                // One that has ended stays in the file until dnsmasq looks at it.
                Some(Some(claim)) if claim.until.is_none_or(|until| until > now) => {
                    let is_first = seen.len() >= MOST_ADDRESSES || seen.insert(claim.net.ip());
                    if is_first {
                        outlet.say(Report::Holds(claim))?;
                    }
                }
                Some(_) => {}
            }
        }
        unreadable.warn(&self.path);
        Ok(outlet.say(Report::ListEnds)?)
    }

    /// Waits while a file looks half-written, and opens it anew.
    fn settled(&self, mut file: File, watch: &mut Watch, outlet: &Outlet) -> io::Result<File> {
        let begun = Instant::now();
        while !is_whole(&file).map_err(|error| at_path(&self.path, error))? {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            watch.wait(outlet, Some(left))?;
            file = watch.reopen(outlet)?;
        }
        Ok(file)
    }
}

impl Source for Dnsmasq {
    fn name(&self) -> &'static str {
        "dnsmasq"
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn follow(&mut self, outlet: &Outlet) -> io::Result<()> {
        let mut watch = Watch::new(&self.path)?;
        let mut file = watch.first_open(outlet)?;
        loop {
            let settled = self.settled(file, &mut watch, outlet)?;
            self.list(settled, outlet)?;
            outlet.note_read();
            watch.wait_for_quiet(outlet)?;
            file = watch.reopen(outlet)?;
        }
    }
}

/// Whether the last line is whole.
fn is_whole(file: &File) -> io::Result<bool> {
    let mut last = [0];
    let Some(place) = file.metadata()?.len().checked_sub(1) else { return Ok(false) };
    Ok(file.read_at(&mut last, place)? == 1 && last == *b"\n")
}

/// The claim of a line; `Some(None)` if it is one without. `None` if it cannot be read.
fn parse(line: &str) -> Option<Option<Claim>> {
    let mut fields = line.split(' ').filter(|field| !field.is_empty());
    let first = fields.next();
    if matches!(first, None | Some("duid")) {
        // The identifier of the server, after which the leases of DHCPv6 come.
        return Some(None);
    }
    let expiry: Millis = first?.parse().ok().filter(|expiry| *expiry >= 0)?;
    let (device, address) = (fields.next()?, fields.next()?);
    let address: IpAddr = address.parse().ok()?;
    let name = fields.next()?;
    let client_id = fields.next()?;
    if fields.next().is_some() {
        return None;
    }
    let host = Host {
        name: (name != "*").then(|| name.to_owned()),
        // In the part of DHCPv6 this is the number of an interface of the client.
        mac: if address.is_ipv4() { mac(device) } else { None },
        client_id: (client_id != "*").then(|| client_id.replace(':', "").to_ascii_lowercase()),
        ..Host::default()
    };
    let until = if expiry == 0 { None } else { Some(expiry.checked_mul(1_000)?) };
    Some(Some(Claim { until, ..Claim::of(address, host) }))
}

/// A MAC address; the type of its network precedes it unless that is Ethernet: `06-00:16:3e:5a:01:2f`.
fn mac(text: &str) -> Option<Mac> {
    match text.split_once('-') {
        Some((kind, address)) if kind.len() == 2 && address.contains(':') => address.parse().ok(),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outlet::testing::Heard;
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::sync::Arc;

    fn names(reports: &[Report]) -> Vec<String> {
        let last = reports.iter().rposition(|report| matches!(report, Report::ListBegins { .. }));
        let list = &reports[last.unwrap_or(0)..];
        list.iter()
            .filter_map(|report| match report {
                Report::Holds(claim) => claim.host.name.clone(),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn lines_are_parsed() {
        let claim = |line| parse(line).unwrap().unwrap();
        let Claim { net, host, since, until, .. } =
            claim("1795824790 7e:01:fa:2f:36:ed 10.9.9.20 laptop 01:7e:01:fa:2f:36:ED");
        assert_eq!(net.to_string(), "10.9.9.20/32");
        assert_eq!((since, until), (None, Some(1_795_824_790_000)));
        assert_eq!(host.mac.unwrap().to_string(), "7e:01:fa:2f:36:ed");
        assert_eq!(
            (host.name.as_deref(), host.client_id.as_deref()),
            (Some("laptop"), Some("017e01fa2f36ed"))
        );
        let infinite = claim("0 06-7e:01:fa:2f:36:ed 10.9.9.21 * *");
        assert_eq!((infinite.until, infinite.host.name, infinite.host.client_id), (None, None, None));
        assert_eq!(infinite.host.mac.unwrap().to_string(), "7e:01:fa:2f:36:ed");
        let v6 = claim("1795824790 T16908288 fd00::1f tablet 00:01:00:01:2f:aa:bb:cc:7e:01:fa:2f:36:ed");
        assert_eq!((v6.net.to_string().as_str(), v6.host.mac), ("fd00::1f/128", None));
        assert_eq!(v6.host.client_id.as_deref(), Some("000100012faabbcc7e01fa2f36ed"));
        assert_eq!(parse("duid 00:01:00:01:2f:aa:bb:cc:7e:01:fa:2f:36:ed"), Some(None));
        assert_eq!(parse(""), Some(None));
        for line in [
            "1795824790 7e:01:fa:2f:36:ed 10.9.9.20 laptop",
            "1795824790 7e:01:fa:2f:36:ed 10.9.9.20 lap top *",
            "1795824790 7e:01:fa:2f:36:ed 10.9.9.256 laptop *",
            "-5 7e:01:fa:2f:36:ed 10.9.9.2 laptop *",
            "99999999999999999999 7e:01:fa:2f:36:ed 10.9.9.2 laptop *",
            "9223372036854775807 7e:01:fa:2f:36:ed 10.9.9.2 laptop *",
            "\u{1b}[2J",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_list_is_sent_when_the_file_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dnsmasq.leases");
        fs::write(
            &path,
            "0 02:00:00:00:00:01 10.0.0.1 first *\nwhat\n100 02:00:00:00:00:02 10.0.0.2 over *\n\
             0 02:00:00:00:00:03 10.0.0.1 twice *\n",
        )
        .unwrap();
        let heard = Arc::<Heard>::default();
        let (outlet, stop) = heard.outlet();
        let mut source = Dnsmasq::new(path.clone());
        std::thread::scope(|scope| {
            let follower = scope.spawn(move || source.follow(&outlet));
            let whole = |reports: &[Report]| reports.last() == Some(&Report::ListEnds);
            let reports = heard.wait_until("the first list", whole);
            assert_eq!(names(&reports), ["first"]);
            heard.take_all();
            // As dnsmasq writes it, but slowly.
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.set_len(0).unwrap();
            std::thread::sleep(Duration::from_millis(60));
            file.write_all(b"0 02:00:00:00:00:01 10.0.0.1 second *\n0 02:00:00:00:0").unwrap();
            std::thread::sleep(Duration::from_millis(60));
            file.write_all(b"0:02 10.0.0.2 other *\n").unwrap();
            let is_second = |reports: &[Report]| whole(reports) && names(reports) == ["second", "other"];
            heard.wait_until("the second list", is_second);
            // One whose last line stays unfinished counts without that line.
            heard.take_all();
            file.write_all(b"0 02:00:00:00:00:03 10.0.0.3 third").unwrap();
            let reports = heard.wait_until("the third list", whole);
            assert_eq!(names(&reports), ["second", "other"]);
            heard.take_all();
            fs::write(path.with_extension("new"), "0 02:00:00:00:00:03 10.0.0.3 third *\n").unwrap();
            fs::rename(path.with_extension("new"), &path).unwrap();
            let reports = heard.wait_until("the fourth list", whole);
            assert_eq!(names(&reports), ["third"]);
            fs::remove_file(&path).unwrap();
            let error = follower.join().unwrap().unwrap_err().to_string();
            assert!(error.contains("was removed"), "{error}");
        });
        drop(stop);
    }
}
