//! The blocks of a lease file of ISC dhcpd: `lease … { … }`, and for DHCPv6 `ia-na "…" { iaaddr … { … } }`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::host::Host;
use crate::mac::Mac;
use crate::source::journal::Lease;
use crate::time::Millis;

/// Blocks in blocks; a lease file of dhcpd has three at most.
const MOST_DEPTH: usize = 16;
/// The words of a statement that are kept.
const MOST_WORDS: usize = 64;
/// The bytes of an identifier of DHCPv6 before the client's: the number of its interface.
const IAID: usize = 4;

/// A word of a statement, or a text in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Plain(String),
    Quoted(Vec<u8>),
}

impl Word {
    fn plain(&self) -> Option<&str> {
        match self {
            Word::Plain(word) => Some(word),
            Word::Quoted(_) => None,
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    net: Option<IpNetwork>,
    /// Its times, if known: its begin, its end, and of DHCPv6 its length.
    starts: Option<Millis>,
    ends: Option<Millis>,
    max_life: Option<Millis>,
    state: Option<String>,
    host: Host,
    /// One of its statements could not be read.
    is_broken: bool,
}

#[derive(Debug)]
enum Block {
    Lease(Entry),
    /// The leases of one client of DHCPv6: its identifier, and when it was last heard.
    Association {
        client_id: Option<String>,
        heard: Option<Millis>,
    },
    Other,
}

/// Puts leases together from lines.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    stack: Vec<Block>,
    words: Vec<Word>,
}

impl Blocks {
    /// Takes a line, and adds the leases whose blocks it ends. Returns whether it could be read.
    pub(crate) fn line(&mut self, line: &[u8], leases: &mut Vec<Lease>) -> bool {
        let mut is_readable = true;
        let is_top =
            [b"lease ".as_slice(), b"ia-na ", b"ia-ta ", b"ia-pd "].iter().any(|s| line.starts_with(s));
        if is_top && !(self.stack.is_empty() && self.words.is_empty()) {
            // The writer of the block before was interrupted.
            self.clear();
            is_readable = false;
        }
        let mut rest = line;
        while let Some((&byte, after)) = rest.split_first() {
            match byte {
                b'#' => break,
                b'{' => {
                    is_readable &= self.open();
                    rest = after;
                }
                b'}' => {
                    is_readable &= self.close(leases);
                    rest = after;
                }
                b';' => {
                    is_readable &= self.statement();
                    rest = after;
                }
                b'"' => match quoted(after) {
                    Some((text, after)) => {
                        self.push(Word::Quoted(text));
                        rest = after;
                    }
                    None => {
                        self.skip();
                        return false;
                    }
                },
                _ if byte.is_ascii_whitespace() => rest = after,
                _ => {
                    let is_end = |byte: &u8| byte.is_ascii_whitespace() || b"{};\"".contains(byte);
                    let end = rest.iter().position(is_end).unwrap_or(rest.len());
                    let (word, after) = rest.split_at(end);
                    self.push(Word::Plain(String::from_utf8_lossy(word).into_owned()));
                    rest = after;
                }
            }
        }
        is_readable
    }

    /// A line could not be read: the block that it is in is not a lease.
    pub(crate) fn skip(&mut self) {
        self.words.clear();
        if let Some(Block::Lease(entry)) = self.stack.last_mut() {
            entry.is_broken = true;
        }
    }

    fn clear(&mut self) {
        self.stack.clear();
        self.words.clear();
    }

    fn push(&mut self, word: Word) {
        if self.words.len() < MOST_WORDS {
            self.words.push(word);
        }
    }

    /// A block begins.
    fn open(&mut self) -> bool {
        if self.stack.len() >= MOST_DEPTH {
            self.clear();
            return false;
        }
        let words = std::mem::take(&mut self.words);
        let kind = words.first().and_then(Word::plain).unwrap_or_default();
        let block = match (kind, words.get(1), self.stack.last()) {
            ("lease", Some(Word::Plain(address)), None) => {
                let net = address.parse::<IpAddr>().ok().map(IpNetwork::from);
                Block::Lease(Entry { net, is_broken: net.is_none(), ..Entry::default() })
            }
            ("ia-na" | "ia-ta" | "ia-pd", Some(Word::Quoted(id)), None) => {
                let client_id = id.get(IAID..).filter(|id| !id.is_empty()).map(hex);
                Block::Association { client_id, heard: None }
            }
            (
                "iaaddr" | "iaprefix",
                Some(Word::Plain(address)),
                Some(Block::Association { client_id, heard }),
            ) => {
                let net: Option<IpNetwork> = address.parse().ok();
                let net = net.and_then(|net| IpNetwork::new(net.network(), net.prefix()).ok());
                let host = Host { client_id: client_id.clone(), ..Host::default() };
                Block::Lease(Entry {
                    net,
                    starts: *heard,
                    host,
                    is_broken: net.is_none(),
                    ..Entry::default()
                })
            }
            _ => Block::Other,
        };
        let is_readable = !matches!(&block, Block::Lease(Entry { is_broken: true, .. }));
        self.stack.push(block);
        is_readable
    }

    /// A block ends.
    fn close(&mut self, leases: &mut Vec<Lease>) -> bool {
        self.words.clear();
        match self.stack.pop() {
            Some(Block::Lease(entry)) => {
                // The line that broke it was counted.
                leases.extend(entry.lease());
                true
            }
            Some(_) => true,
            None => false,
        }
    }

    /// A statement ends.
    fn statement(&mut self) -> bool {
        let words = std::mem::take(&mut self.words);
        let plain = |place: usize| words.get(place).and_then(Word::plain);
        let Some(kind) = plain(0) else { return true };
        match self.stack.last_mut() {
            Some(Block::Lease(entry)) => {
                let is_readable = entry.take(kind, &words);
                entry.is_broken |= !is_readable;
                is_readable
            }
            Some(Block::Association { heard, .. }) if kind == "cltt" => {
                let time = time(&words);
                *heard = time.flatten();
                time.is_some()
            }
            _ => true,
        }
    }
}

impl Entry {
    /// Takes a statement. Returns whether it could be read.
    fn take(&mut self, kind: &str, words: &[Word]) -> bool {
        let plain = |place: usize| words.get(place).and_then(Word::plain);
        let set = |field: &mut Option<Millis>| {
            let time = time(words);
            *field = time.flatten();
            time.is_some()
        };
        match kind {
            "starts" => set(&mut self.starts),
            "ends" => set(&mut self.ends),
            "max-life" => {
                let life = plain(1).and_then(|life| life.parse::<u32>().ok());
                self.max_life = life.map(|life| Millis::from(life) * 1_000);
                life.is_some()
            }
            "binding" => {
                self.state = plain(2).map(str::to_owned);
                self.state.is_some()
            }
            // As versions before 3 have it.
            "abandoned" => {
                self.state = Some(kind.to_owned());
                true
            }
            "hardware" => {
                // Other networks have addresses of another length.
                self.host.mac = plain(2).and_then(|mac| mac.parse::<Mac>().ok());
                true
            }
            "uid" => {
                self.host.client_id = match words.get(1) {
                    Some(Word::Quoted(id)) => Some(hex(id)),
                    Some(Word::Plain(id)) => Some(id.replace(':', "").to_ascii_lowercase()),
                    None => None,
                };
                self.host.client_id.is_some()
            }
            "client-hostname" => {
                self.host.name = match words.get(1) {
                    Some(Word::Quoted(name)) => Some(String::from_utf8_lossy(name).into_owned()),
                    Some(Word::Plain(name)) => Some(name.clone()),
                    None => None,
                };
                self.host.name.is_some()
            }
            _ => true,
        }
    }

    fn lease(self) -> Option<Lease> {
        let Self { net, starts, ends, max_life, state, host, is_broken } = self;
        let net = net.filter(|_| !is_broken)?;
        let since = starts.or_else(|| ends?.checked_sub(max_life?));
        let state = state.as_deref().unwrap_or("active");
        // Whose lease it was is known of these only: an address in conflict has nobody's.
        let host = match state {
            "active" | "released" | "expired" | "free" => host,
            _ => Host::default(),
        };
        Some(Lease { net, host, since, until: ends, is_held: state == "active" })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A text up to its closing quote, and what follows that. `None` if there is none.
fn quoted(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'"' => return Some((text, rest)),
            b'\\' => {
                let octal = rest.get(..3).and_then(|digits| {
                    let digits = std::str::from_utf8(digits).ok()?;
                    digits.bytes().all(|digit| digit.is_ascii_digit()).then_some(digits)
                });
                if let Some(code) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
                    text.push(code);
                    rest = rest.get(3..)?;
                    continue;
                }
                let (&escaped, after) = rest.split_first()?;
                rest = after;
                text.push(match escaped {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'b' => 8,
                    other => other,
                });
            }
            other => text.push(other),
        }
    }
}

/// The time of a statement: `ends 5 2026/11/27 10:00:00` in UTC, `ends epoch 1795773600` or `ends never`, which is
/// `Some(None)`. `None` if it cannot be read.
fn time(words: &[Word]) -> Option<Option<Millis>> {
    let plain = |place: usize| words.get(place).and_then(Word::plain);
    let seconds = match plain(1)? {
        "never" => return Some(None),
        "epoch" => plain(2)?.parse::<i64>().ok().filter(|seconds| *seconds >= 0)?,
        _ => {
            let [year, month, day] = numbers(plain(2)?, '/')?;
            let [hour, minute, second] = numbers(plain(3)?, ':')?;
            let is_time = (1970..10_000).contains(&year)
                && (1..=12).contains(&month)
                && (1..=31).contains(&day)
                && hour < 24
                && minute < 60
                && second <= 60;
            is_time.then(|| days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)?
        }
    };
    Some(Some(seconds.checked_mul(1_000)?))
}

fn numbers(text: &str, between: char) -> Option<[i64; 3]> {
    let mut parts = text.split(between).map(|part| part.parse::<u32>().ok().map(i64::from));
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

/// Days since 1970-01-01 in the calendar of today. Years begin in March here, so that the leap day is their last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Lease>, usize) {
        let mut blocks = Blocks::default();
        let mut leases = Vec::new();
        let unreadable = text.lines().filter(|line| !blocks.line(line.as_bytes(), &mut leases)).count();
        (leases, unreadable)
    }

    #[test]
    fn a_lease_of_each_state_is_read() {
        let (leases, unreadable) = read(
            r#"# The format of this file is documented in the dhcpd.leases(5) manual page.
authoring-byte-order little-endian;
lease 10.0.0.5 {
  starts 5 2026/11/27 10:00:00;
  ends 5 2026/11/27 10:10:00;
  tstp 5 2026/11/27 10:10:00;
  cltt 5 2026/11/27 10:00:00;
  binding state active;
  next binding state free;
  rewind binding state free;
  hardware ethernet 00:16:3e:5a:01:2f;
  uid "\001\000\026>Z\001\"/";
  set vendor-class-identifier = "a; } \" b";
  on expiry or release { execute ("/bin/true", "x"); }
  client-hostname "ph{on}e";
}
lease 10.0.0.6 { starts epoch 1795773600; # Fri Nov 27 10:00:00 2026
  ends never; uid 01:AB:cd; }
lease 10.0.0.7 {
  starts 2 2024/02/29 23:59:59;
  ends 3 2024/03/01 00:00:00;
  binding state abandoned;
  next binding state free;
  hardware ethernet 00:16:3e:5a:01:30;
}
"#,
        );
        assert_eq!((leases.len(), unreadable), (3, 0));
        let [active, never, abandoned] = leases.try_into().unwrap();
        let host = Host {
            mac: Some("00:16:3e:5a:01:2f".parse().unwrap()),
            client_id: Some("0100163e5a01222f".to_owned()),
            ..Host::named("ph{on}e")
        };
        let lease = Lease {
            net: "10.0.0.5/32".parse().unwrap(),
            host,
            since: Some(1_795_773_600_000),
            until: Some(1_795_774_200_000),
            is_held: true,
        };
        assert_eq!(active, lease);
        assert_eq!((never.since, never.until, never.is_held), (Some(1_795_773_600_000), None, true));
        assert_eq!(never.host.client_id.as_deref(), Some("01abcd"));
        assert_eq!((abandoned.is_held, abandoned.host.is_empty()), (false, true));
        assert_eq!((abandoned.since, abandoned.until), (Some(1_709_251_199_000), Some(1_709_251_200_000)));
    }

    #[test]
    fn leases_of_ipv6_are_read() {
        let (leases, unreadable) = read(
            r#"server-duid "\000\001\000\001/\3001\304";
ia-na "\001\000\000\000\000\001\000\001/\2521\304\002\000" {
  cltt 5 2026/11/27 10:00:00;
  iaaddr fd00::5 {
    binding state active;
    preferred-life 375;
    max-life 600;
    ends 5 2026/11/27 10:10:00;
    set ddns-fwd-name = "x";
  }
}
ia-pd "\001\000\000\000\000\003" {
  iaprefix fd00:1:2::/48 {
    binding state released;
    preferred-life 375;
    max-life 600;
    ends 5 2026/11/27 10:10:00;
  }
}
"#,
        );
        assert_eq!((leases.len(), unreadable), (2, 0));
        assert_eq!(leases[0].net.to_string(), "fd00::5/128");
        assert_eq!(leases[0].host.client_id.as_deref(), Some("000100012faa31c40200"));
        assert_eq!((leases[0].since, leases[0].until), (Some(1_795_773_600_000), Some(1_795_774_200_000)));
        assert_eq!((leases[1].net.to_string().as_str(), leases[1].is_held), ("fd00:1:2::/48", false));
        assert_eq!(leases[1].since, Some(1_795_773_600_000));
    }

    #[test]
    fn a_broken_block_spoils_no_other() {
        let whole = "lease 10.0.0.9 {\n  ends never;\n}\n";
        for broken in [
            "lease 10.0.0.5 {\n  starts 5 2026/11",
            "lease 10.0.0.5 {\n  starts 5 2026/13/27 10:00:00;\n}",
            "lease 10.0.0.5 {\n  client-hostname \"x;\n}",
            "lease 10.0.0 {\n  ends never;\n}",
            "}",
            &"{".repeat(1_000),
        ] {
            let (leases, unreadable) = read(&format!("{broken}\n{whole}"));
            assert_eq!(leases.len(), 1, "{broken}");
            assert_eq!(leases[0].net.to_string(), "10.0.0.9/32");
            assert!(unreadable > 0, "{broken}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in r#"([ -~]|lease |ia-na |[{};"\\#0-9\n]){0,300}"#) {
            read(&text);
        }
    }
}
