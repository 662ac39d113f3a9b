//! Who the inside host is, as `/v1` writes it, and questions by it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use hyper::StatusCode;
use ipnetwork::IpNetwork;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use natnames::{Answer, Book, Fact, Found, Millis, Names, Span, Who, wall_clock};

use super::error::Failure;
use crate::http::json;

/// Facts that were learnt longer than this after they began say so, in milliseconds.
const PROMPT: Millis = 1_000;

/// The most addresses of a host for which the history is asked one after the other.
const MOST_ADDRESSES: usize = 1_000;
/// What is encoded in a header, besides what is not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Who the inside hosts are, for a client who may know it. Others get answers as if there were no names.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct Hosts(Option<Arc<Names>>);

impl Hosts {
    /// Those that a client may know.
    pub(in crate::http) fn new(names: Option<Arc<Names>>) -> Self {
        Self(names)
    }

    /// Whether nothing is written.
    pub(super) fn are_hidden(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a request may name a host.
    ///
    /// # Errors
    /// If it does, and no source of names is set or the client may not see names.
    pub(super) fn check(&self, who: &[Who]) -> Result<(), Failure> {
        if who.is_empty() || !self.are_hidden() {
            return Ok(());
        }
        Err(Failure {
            status: StatusCode::FORBIDDEN,
            error: "hosts cannot be asked about by name".to_owned(),
            hint: "set a source and acl in [names], and restart the daemon".to_owned(),
        })
    }

    /// Writes the member `host` of a mapping: who had this address when the mapping opened, at some moment of this span. If
    /// that is not known and the mapping is live, who has it now.
    #[inline]
    pub(super) fn write(&self, out: &mut Vec<u8>, inside: IpAddr, opened: Span, is_live: bool) {
        if let Some(names) = &self.0 {
            write(out, &names.book(), inside, opened, is_live.then(wall_clock));
        }
    }

    /// Passes what is known of who had an address to `set`, as headers of `/v1/auth`. What a header cannot have is
    /// percent-encoded.
    pub(super) fn describe(&self, inside: IpAddr, opened: Span, mut set: impl FnMut(&'static str, String)) {
        let Some(names) = &self.0 else { return };
        let book = names.book();
        let Some(found) = book.during(inside, opened).found else { return };
        let encoded = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let name = found.name.map(encoded);
        let subscriber = found.subscriber.map(encoded);
        let mac = found.mac.map(|mac| mac.to_string());
        let source = Some(book.source_name(found.fact.source).to_owned());
        let certain = Some(if found.is_certain { "1" } else { "0" }.to_owned());
        for (header, value) in [
            ("x-nat-host", name),
            ("x-nat-host-mac", mac),
            ("x-nat-host-subscriber", subscriber),
            ("x-nat-host-source", source),
            ("x-nat-host-certain", certain),
        ] {
            value.into_iter().for_each(|value| set(header, value));
        }
    }

    /// Where somebody's mappings can be: all addresses and networks that he is known to have had.
    pub(super) fn nets_of(&self, who: &[Who]) -> BTreeSet<IpNetwork> {
        let (Some(names), Some(who)) = (&self.0, who.first()) else { return BTreeSet::new() };
        let known = names.book().addresses_of(who, Millis::MIN, wall_clock());
        known.into_iter().map(|(net, _)| net).collect()
    }

    /// Where somebody's mappings can be, for a question that is asked for each address.
    ///
    /// # Errors
    /// If he had a network, or many addresses.
    pub(super) fn addresses_of(&self, who: &[Who]) -> Result<BTreeSet<IpAddr>, Failure> {
        let nets = self.nets_of(who);
        if nets.len() > MOST_ADDRESSES || nets.iter().any(|net| !is_one_address(*net)) {
            return Err(Failure::bad(
                "this host has a network, or has had many addresses",
                "name src_ip, nat_ip or nat_port too",
            ));
        }
        Ok(nets.iter().map(IpNetwork::ip).collect())
    }

    /// The sources that were not followed at some time from `from` to `to`, and that time.
    pub(super) fn gaps(&self, from: Millis, to: Millis) -> Vec<(String, Millis, Option<Millis>)> {
        let Some(names) = &self.0 else { return Vec::new() };
        let book = names.book();
        let named = |(source, from, to)| (book.source_name(source).to_owned(), from, to);
        book.gaps(from, to).into_iter().map(named).collect()
    }

    /// Whether somebody is the host that [`write`](Self::write) shows.
    pub(super) fn is(&self, who: &[Who], inside: IpAddr, opened: Span, is_live: bool) -> bool {
        let Some(names) = &self.0 else { return false };
        let book = names.book();
        let (answer, _) = shown(&book, inside, opened, is_live.then(wall_clock));
        answer.found.is_some_and(|found| who.iter().all(|who| found.is(who)))
    }
}

/// Who had an address at some moment of a span; if that is not known, who has it now, and whether that is so.
fn shown(book: &Book, inside: IpAddr, opened: Span, now: Option<Millis>) -> (Answer<'_>, bool) {
    let mut answer = book.during(inside, opened);
    if let (None, Some(now)) = (&answer.found, now) {
        answer.found = book.at(inside, now).found;
        let is_of_now = answer.found.is_some();
        return (answer, is_of_now);
    }
    (answer, false)
}

/// Whether a network is one address.
pub(super) fn is_one_address(net: IpNetwork) -> bool {
    net.prefix() == if net.is_ipv4() { 32 } else { 128 }
}

fn write(out: &mut Vec<u8>, book: &Book, inside: IpAddr, opened: Span, now: Option<Millis>) {
    let (answer, is_of_now) = shown(book, inside, opened, now);
    let Answer { found, gaps } = &answer;
    match found {
        Some(found) => {
            json::text(out, r#","host":{"#);
            write_found(out, book, found);
            // Another device can have had it then.
            let is_certain = found.is_certain && !is_of_now;
            json::text(out, if is_certain { r#","certain":true"# } else { r#","certain":false"# });
        }
        None if gaps.is_empty() => return json::text(out, r#","host":null"#),
        None => json::text(out, r#","host":{"certain":false"#),
    }
    let mut begin = r#","gaps":["#;
    for source in gaps {
        json::text(out, begin);
        json::value(out, &book.source_name(*source));
        begin = ",";
    }
    json::text(out, if gaps.is_empty() { "}" } else { "]}" });
}

fn write_found(out: &mut Vec<u8>, book: &Book, found: &Found<'_>) {
    let Found { name, mac, subscriber, fact, others, .. } = found;
    let mut begin = "";
    let mut member = |out: &mut Vec<u8>, key: &str, value: Option<&str>| {
        if let Some(value) = value {
            json::text(out, begin);
            json::text(out, key);
            json::value(out, &value);
            begin = ",";
        }
    };
    member(out, r#""name":"#, *name);
    member(out, r#""mac":"#, mac.map(|mac| mac.to_string()).as_deref());
    member(out, r#""subscriber":"#, *subscriber);
    member(out, r#""client_id":"#, fact.host.client_id.as_deref());
    member(out, r#""source":"#, Some(book.source_name(fact.source)));
    if !fact.host.labels.is_empty() {
        json::text(out, r#","labels":"#);
        json::value(out, &fact.host.labels);
    }
    write_since(out, fact);
    let mut begin = r#","others":["#;
    for other in others {
        json::text(out, begin);
        json::text(out, "{");
        write_found(out, book, &Found::of(other));
        json::text(out, "}");
        begin = ",";
    }
    json::text(out, if others.is_empty() { "" } else { "]" });
}

/// Since when a host had its address, from when on that was possible, and when it was learnt if that was later.
fn write_since(out: &mut Vec<u8>, fact: &Fact) {
    let time = |out: &mut Vec<u8>, name: &str, at: Millis| {
        json::text(out, name);
        json::time(out, u64::try_from(at).unwrap_or(0));
    };
    time(out, r#","since":"#, fact.began.latest);
    if fact.began.earliest < fact.began.latest {
        time(out, r#","since_after":"#, fact.began.earliest);
    }
    if fact.learnt.saturating_sub(fact.began.latest) > PROMPT {
        time(out, r#","learnt":"#, fact.learnt);
    }
}
