//! The lines of the operator's own file and of the socket: CSV or JSON. doc/NAMES.md describes them.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use crate::claim::{Claim, Report};
use crate::host::Host;
use crate::mac::Mac;
use crate::text::clean;
use crate::time::Millis;

/// What is shown of a text in an error.
const SHOWN: usize = 40;
/// Seconds since 1970 at the end of the year 9999: a greater number is not of seconds.
const LAST_SECOND: f64 = 253_402_300_799.0;
/// The columns of CSV without a header.
const USUAL_COLUMNS: [Column; 6] =
    [Column::Address, Column::Name, Column::Mac, Column::Subscriber, Column::From, Column::Until];

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// Somebody has the address.
    Holds(Claim),
    /// Nobody has it from this moment on; `None` is now.
    Free {
        /// The address, or a network.
        net: IpNetwork,
        /// Since when.
        at: Option<Millis>,
    },
}

impl From<Record> for Report {
    fn from(record: Record) -> Self {
        match record {
            Record::Holds(claim) => Report::Holds(claim),
            // A stop can come after the next start.
            Record::Free { net, at: Some(at) } => Report::Stops { net, at },
            Record::Free { net, at: None } => Report::Ends { net, at: None },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    Address,
    Name,
    Mac,
    Subscriber,
    ClientId,
    From,
    Until,
    Event,
    /// Any other becomes a label.
    Label(String),
}

impl Column {
    fn named(name: &str) -> Self {
        match name.trim().to_ascii_lowercase().as_str() {
            "address" => Self::Address,
            "name" => Self::Name,
            "mac" => Self::Mac,
            "subscriber" => Self::Subscriber,
            "client_id" => Self::ClientId,
            "from" => Self::From,
            "until" => Self::Until,
            "event" => Self::Event,
            _ => Self::Label(name.trim().to_owned()),
        }
    }
}

/// Reads lines, of which the first can be a header of CSV.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// Of the header, if there was one.
    columns: Option<Vec<Column>>,
    has_begun: bool,
}

impl Parser {
    /// Reads a line. `None` if it says nothing: it is empty, a comment or a header.
    ///
    /// # Errors
    /// What is wrong with it, in one line of text.
    pub(crate) fn read(&mut self, line: &[u8]) -> Result<Option<Record>, String> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if text.starts_with('{') {
            return json(text).map(Some);
        }
        let fields = split(text)?;
        if is_first && fields.iter().any(|field| field.trim().eq_ignore_ascii_case("address")) {
            self.columns = Some(fields.iter().map(|field| Column::named(field)).collect());
            return Ok(None);
        }
        let columns = self.columns.as_deref().unwrap_or(&USUAL_COLUMNS);
        if fields.len() > columns.len() {
            return Err(format!("it has {} fields, but there are {} columns", fields.len(), columns.len()));
        }
        let mut draft = Draft::default();
        for (column, field) in columns.iter().zip(&fields) {
            draft.set(column, field.trim())?;
        }
        draft.finish().map(Some)
    }
}

fn json(text: &str) -> Result<Record, String> {
    let members: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("it is no JSON object: {error}"))?;
    let mut draft = Draft::default();
    for (name, value) in &members {
        let column = Column::named(name);
        match value {
            Value::String(value) => draft.set(&column, value.trim())?,
            Value::Number(value) => draft.set(&column, &value.to_string())?,
            Value::Null => {}
            _ if matches!(column, Column::Label(_)) => {}
            _ => return Err(format!("{} is neither a text nor a number", shown(name))),
        }
    }
    draft.finish()
}

/// The fields of a line of CSV, by RFC 4180; a field ends with its line.
fn split(line: &str) -> Result<Vec<Cow<'_, str>>, String> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let trimmed = rest.trim_start_matches([' ', '\t']);
        let after = if let Some(quoted) = trimmed.strip_prefix('"') {
            let (field, after) = unquote(quoted).ok_or("a quotation mark is not closed in its line")?;
            fields.push(Cow::Owned(field));
            after.trim_start_matches([' ', '\t'])
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let (field, after) = rest.split_at(end);
            fields.push(Cow::Borrowed(field));
            after
        };
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err(format!("expected a comma after a quoted field, found {}", shown(after))),
        }
    }
}

/// A field up to its closing quotation mark, and what follows that. Two marks stand for one.
fn unquote(mut rest: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let (content, after) = rest.split_once('"')?;
        field.push_str(content);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Some((field, after)),
        }
    }
}

#[derive(Debug, Default)]
struct Draft {
    net: Option<IpNetwork>,
    host: Host,
    /// A moment, and how much later it can have been.
    from: Option<(Millis, Millis)>,
    until: Option<Millis>,
    is_stop: bool,
}

impl Draft {
    fn set(&mut self, column: &Column, value: &str) -> Result<(), String> {
        if value.is_empty() {
            return Ok(());
        }
        match column {
            Column::Address => self.net = Some(net(value)?),
            Column::Name => self.host.name = clean(value),
            Column::Mac => self.host.mac = Some(mac(value)?),
            Column::Subscriber => self.host.subscriber = clean(value),
            Column::ClientId => self.host.client_id = Some(client_id(value)?),
            Column::From => self.from = Some(moment(value)?),
            Column::Until => self.until = Some(moment(value)?.0),
            Column::Event => self.is_stop = is_stop(value)?,
            Column::Label(name) => {
                self.host.labels.insert(name.clone(), value.to_owned());
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Record, String> {
        let Self { net, host, from, until, is_stop } = self;
        let net = net.ok_or("it has no address")?;
        if is_stop {
            return Ok(Record::Free { net, at: until });
        }
        let host = host.cleaned();
        if host.is_empty() {
            return Err("it does not say who has the address: \
                 give a name, a mac, a subscriber or a client_id"
                .to_owned());
        }
        let (since, within) = from.map_or((None, 0), |(since, within)| (Some(since), within));
        if since.zip(until).is_some_and(|(since, until)| until < since) {
            return Err("until is before from".to_owned());
        }
        Ok(Record::Holds(Claim { net, host, since, within, until }))
    }
}

fn net(text: &str) -> Result<IpNetwork, String> {
    let wrong =
        || format!("expected an address or a network such as 10.0.0.7 or 10.0.0.0/24, found {}", shown(text));
    if !text.contains('/') {
        let address: IpAddr = text.parse().map_err(|_| wrong())?;
        return Ok(address.to_canonical().into());
    }
    let net: IpNetwork = text.parse().map_err(|_| wrong())?;
    if net.ip() != net.network() {
        let (address, network) = (net.ip(), net.network());
        return Err(format!(
            "{net} is one address in a network: write {address}, or {network}/{} for all of it",
            net.prefix()
        ));
    }
    Ok(net)
}

/// Reads a MAC address. RADIUS and switches also write `00163e5a012f` and `0016.3e5a.012f`.
fn mac(text: &str) -> Result<Mac, String> {
    let digits: String = text.chars().filter(|c| *c != '.').collect();
    let written_together = digits.len() == 12 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let mac = if written_together {
        u64::from_str_radix(&digits, 16).ok().and_then(|bits| Mac::from_bytes(&bits.to_be_bytes()[2..]))
    } else {
        text.parse().ok()
    };
    mac.ok_or_else(|| format!("expected a MAC address such as 00:16:3e:5a:01:2f, found {}", shown(text)))
}

/// Reads an identifier into plain digits, as the other sources have it.
fn client_id(text: &str) -> Result<String, String> {
    let digits = text.replace([':', '-'], "").to_ascii_lowercase();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(format!("expected a client_id in hexadecimal digits, found {}", shown(text)));
    }
    Ok(digits)
}

/// Reads a moment. It comes with how much later it can have been: a clock of whole seconds leaves out the fraction.
fn moment(text: &str) -> Result<(Millis, Millis), String> {
    let within = if text.contains('.') { 0 } else { 999 };
    if let Ok(seconds) = text.parse::<f64>() {
        if !(0.0..=LAST_SECOND).contains(&seconds) {
            return Err(format!("expected seconds since 1970, found {}", shown(text)));
        }
        // It is in the range of Millis: see above.
        return Ok(((seconds * 1000.0).round() as Millis, within));
    }
    let moment: jiff::Timestamp = text.parse().map_err(|_| {
        format!("expected a time such as 2026-11-27T10:00:00Z or seconds since 1970, found {}", shown(text))
    })?;
    Ok((moment.as_millisecond(), within))
}

fn is_stop(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "start" | "update" => Ok(false),
        "stop" => Ok(true),
        _ => Err(format!("expected the event start, stop or update, found {}", shown(text))),
    }
}

/// A text from outside, for an error.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
