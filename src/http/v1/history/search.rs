//! Reads the history in a thread, and writes the answer while it reads.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use nathistory::{Completeness, Gap, Millis, Question, Reason, Record};
use natnames::Who;
use tokio::sync::{oneshot, watch};

use super::asked::Asked;
use super::pieces::{Gone, PieceSender, Pieces};
use super::trail::{Step, Trail};
use super::written;
use crate::http::json;
use crate::http::past::History;
use crate::http::places::Place;
use crate::http::response::PIECE;
use crate::http::v1::host::Hosts;

/// The maximum number of matches of a question about a moment.
const MAX_MATCHES: usize = 1000;

/// How an answer begins.
#[derive(Debug)]
pub(super) enum Begin {
    /// The whole answer, which is short.
    Whole { text: Vec<u8>, has_matches: bool, complete: bool },
    /// An answer that is written while it is sent.
    Long(Pieces),
    /// The history cannot be read.
    Unreadable(nathistory::Error),
    /// The line of the audit cannot be written.
    Unrecorded(io::Error),
}

/// A search, with all that its thread needs.
pub(super) struct Search {
    pub(super) history: Arc<History>,
    pub(super) hosts: Hosts,
    pub(super) asked: Asked,
    /// Until when everything can be found, if the question is about what has just happened.
    pub(super) known_until: Option<Millis>,
    /// What is not known of the present.
    pub(super) gap: Option<Gap>,
    pub(super) trail: Trail,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) place: Place,
}

/// Why a search ends early.
#[derive(Debug)]
enum Early {
    /// The client is gone, or the daemon stops.
    Unwanted,
    Unrecorded(io::Error),
}

impl From<Gone> for Early {
    fn from(Gone: Gone) -> Self {
        Early::Unwanted
    }
}

impl Search {
    /// Starts the thread. It holds the place until it ends, because it uses memory and the disk until then.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub(super) fn start(self) -> io::Result<oneshot::Receiver<Begin>> {
        let (begin, begun) = oneshot::channel();
        std::thread::Builder::new().name("history-read".to_owned()).spawn(move || self.run(begin))?;
        Ok(begun)
    }

    fn run(self, begin: oneshot::Sender<Begin>) {
        let answer = RefCell::new(Answer::new(&self, begin));
        let found = if self.asked.is_moment { self.moment(&answer) } else { self.span(&answer) };
        let mut answer = answer.into_inner();
        let ended = match found {
            // The search may have ended because of that.
            Ok(Ok(_)) if answer.is_unwanted() => Err(Early::Unwanted),
            Ok(Ok(completeness)) => answer.end(&completeness),
            Ok(Err(early)) => Err(early),
            Err(error) => return answer.fail(error),
        };
        if let Err(early) = ended {
            answer.stop(early);
        }
        drop(self.place);
    }

    fn find(
        &self,
        answer: &RefCell<Answer<'_>>,
        on: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Completeness, nathistory::Error> {
        let is_wanted = || !answer.borrow().is_unwanted();
        let question = &self.asked.question;
        let mut found = match &self.asked.who[..] {
            [] => self.history.past.find(question, &is_wanted, on)?,
            who => self.find_of(who, &is_wanted, on)?,
        };
        found.gaps.extend(self.gap.iter().filter(|gap| gap.touches(question.from, question.to)).cloned());
        found.gaps.extend(self.unnamed());
        Ok(found)
    }

    /// Finds the mappings of somebody: those that began while an address was his.
    fn find_of(
        &self,
        who: &[Who],
        is_wanted: &dyn Fn() -> bool,
        on: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Completeness, nathistory::Error> {
        let asked = &self.asked.question;
        let has_ended = Cell::new(false);
        let mut his = |record: Record| {
            let inside = written::meant_end(&record, asked).map_or(record.src, |end| end.inside);
            if !self.hosts.is(who, inside.ip, written::opened(&record), false) {
                return ControlFlow::Continue(());
            }
            let flow = on(record);
            has_ended.set(has_ended.get() || flow.is_break());
            flow
        };
        if self.asked.addresses.is_empty() {
            return self.history.past.find(asked, is_wanted, &mut his);
        }
        let mut all = Completeness::default();
        for address in &self.asked.addresses {
            let question = Question { src_ip: Some(*address), ..*asked };
            let found = self.history.past.find(&question, is_wanted, &mut his)?;
            for gap in found.gaps {
                if !all.gaps.contains(&gap) {
                    all.gaps.push(gap);
                }
            }
            if has_ended.get() || !is_wanted() {
                break;
            }
        }
        Ok(all)
    }

    /// The times of which it is not known who had an address, for a question about somebody.
    fn unnamed(&self) -> impl Iterator<Item = Gap> {
        let Question { from, to, .. } = self.asked.question;
        let is_about_somebody = !self.asked.who.is_empty();
        let gaps = is_about_somebody.then(|| self.hosts.gaps(from, to)).into_iter().flatten();
        gaps.map(|(source, from, to)| Gap {
            from,
            to,
            reason: Reason::NotReported,
            detail: Some(format!("who had an address is not known: {source} was not followed")),
        })
    }

    /// A moment: the matches, live ones before closed ones, then the newest.
    fn moment(&self, answer: &RefCell<Answer<'_>>) -> Result<Result<Completeness, Early>, nathistory::Error> {
        let mut records = Vec::new();
        let completeness = self.find(answer, &mut |record| {
            records.push(record);
            if records.len() > MAX_MATCHES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let mut answer = answer.borrow_mut();
        answer.truncated = records.len() > MAX_MATCHES;
        records.truncate(MAX_MATCHES);
        records.sort_by_key(|record| std::cmp::Reverse((record.closed.is_none(), record.opened.at)));
        let written = records.iter().try_for_each(|record| answer.add(record));
        Ok(written.map(|()| completeness))
    }

    /// A span: the matches as they are found.
    fn span(&self, answer: &RefCell<Answer<'_>>) -> Result<Result<Completeness, Early>, nathistory::Error> {
        let mut early = None;
        let completeness = self.find(answer, &mut |record| match answer.borrow_mut().add(&record) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                early = Some(error);
                ControlFlow::Break(())
            }
        })?;
        Ok(early.map_or(Ok(completeness), Err))
    }
}

/// An answer, while it is written.
struct Answer<'a> {
    search: &'a Search,
    gateway: String,
    out: Vec<u8>,
    matches: u64,
    /// The host behind the public end, of the first match.
    host: Option<(IpAddr, u16)>,
    ambiguous: bool,
    truncated: bool,
    /// Until the first piece is sent.
    begin: Option<oneshot::Sender<Begin>>,
    sender: Option<PieceSender>,
}

impl<'a> Answer<'a> {
    fn new(search: &'a Search, begin: oneshot::Sender<Begin>) -> Self {
        let mut out = Vec::new();
        json::text(&mut out, r#"{"from":"#);
        written::time(&mut out, search.asked.question.from);
        json::text(&mut out, r#","to":"#);
        // Later events are searched for too, because they can have been received by now.
        let Question { from, to, .. } = search.asked.question;
        written::time(&mut out, search.known_until.map_or(to, |until| to.min(until)).max(from));
        json::text(&mut out, r#","matches":["#);
        Self {
            search,
            gateway: search.history.past.gateway(),
            out,
            matches: 0,
            host: None,
            ambiguous: false,
            truncated: false,
            begin: Some(begin),
            sender: None,
        }
    }

    /// Whether nobody waits for the answer any more.
    fn is_unwanted(&self) -> bool {
        *self.search.stopping.borrow()
            || self.begin.as_ref().is_some_and(oneshot::Sender::is_closed)
            || self.sender.as_ref().is_some_and(PieceSender::is_closed)
    }

    /// Writes a match.
    fn add(&mut self, record: &Record) -> Result<(), Early> {
        if self.is_unwanted() {
            return Err(Early::Unwanted);
        }
        let question = &self.search.asked.question;
        if self.matches > 0 {
            self.out.push(b',');
        }
        self.matches += 1;
        written::record(&mut self.out, record, question, &self.gateway, &self.search.hosts);
        // Hosts of two zones can have the same address. If both ends are meant, both hosts are.
        for end in record.public_ends().filter(|end| question.fits_public(end.public)) {
            let zone = if end.is_source { record.zone } else { record.reply_zone };
            let host = match question.nat_ip.is_some() || question.nat_port.is_some() {
                true => (end.inside.ip, zone),
                // No public end is asked about, but this host.
                false => (record.src.ip, record.zone),
            };
            self.ambiguous |= *self.host.get_or_insert(host) != host;
        }
        self.flush()
    }

    /// Sends what is written, if that is much.
    fn flush(&mut self) -> Result<(), Early> {
        if let Some(sender) = &self.sender {
            if self.out.len() >= PIECE {
                sender.send(std::mem::take(&mut self.out), false)?;
            }
        } else if self.out.len() >= 2 * PIECE {
            self.record(Step::Begin, None)?;
            let (sender, body) = Pieces::channel();
            sender.send(std::mem::take(&mut self.out), false)?;
            self.sender = Some(sender);
            // Fails if the client is gone, and the next piece shows that.
            let _ = self.begin.take().map(|begin| begin.send(Begin::Long(body)));
        }
        Ok(())
    }

    /// Writes the end, and sends the rest.
    fn end(&mut self, completeness: &Completeness) -> Result<(), Early> {
        let complete = completeness.gaps.is_empty() && !self.truncated;
        let ambiguous = self.ambiguous || self.truncated;
        let truncated = if self.truncated { r#","truncated":true"# } else { "" };
        let text = format!(r#"],"ambiguous":{ambiguous},"complete":{complete}{truncated},"gaps":["#);
        json::text(&mut self.out, &text);
        for (at, gap) in completeness.gaps.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            written::gap(&mut self.out, gap);
            self.flush()?;
        }
        json::text(&mut self.out, "]}");
        let text = std::mem::take(&mut self.out);
        if let Some(sender) = &self.sender {
            self.record(Step::End, Some(complete))?;
            sender.send(text, true)?;
            return Ok(());
        }
        self.record(Step::Answer, Some(complete))?;
        let whole = Begin::Whole { text, has_matches: self.matches > 0, complete };
        // Fails if the client is gone.
        let _ = self.begin.take().map(|begin| begin.send(whole));
        Ok(())
    }

    /// The history cannot be read, or no further.
    fn fail(mut self, error: nathistory::Error) {
        // Nothing is said that would have to be recorded.
        let _ = self.record(Step::Error, None);
        match self.begin.take() {
            Some(begin) => drop(begin.send(Begin::Unreadable(error))),
            None => log::warn!("an answer from the history ended early: {error}"),
        }
    }

    fn stop(mut self, early: Early) {
        match early {
            Early::Unwanted => {
                if let Err(Early::Unrecorded(error)) = self.record(Step::Stop, None) {
                    log::warn!("the end of an answer from the history could not be recorded: {error}");
                }
            }
            Early::Unrecorded(error) => match self.begin.take() {
                Some(begin) => drop(begin.send(Begin::Unrecorded(error))),
                None => log::warn!("an answer from the history ended early: {error}"),
            },
        }
    }

    fn record(&self, step: Step, complete: Option<bool>) -> Result<(), Early> {
        let Search { history, trail, .. } = self.search;
        trail.write(history, step, self.matches, complete).map_err(Early::Unrecorded)
    }
}
