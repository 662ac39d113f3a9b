//! What can be asked of the tracker.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nfct::{Error, Flow, Protocol, Tuple};

use super::{Guard, State, Tracker};
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{KeyValue, Learnt, Mapping};
use crate::question::{Lives, Question};
use crate::table::{Place, Table, TooMany};

/// Mappings of which the kernel is asked at once whether they still live.
const MOST_VERIFIED: usize = 64;
/// How long an answer waits for the kernel's.
const KERNEL_PATIENCE: Duration = Duration::from_secs(1);
/// How often a question tries for the lock before it waits for it: between two its
/// thread turns to its other connections, and that costs less than to be woken.
const TRIES: u32 = 32;

/// What a question gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<T> {
    /// What was read from the table.
    pub value: T,
    /// Whether the table was known to equal the kernel's.
    pub complete: bool,
}

impl Tracker {
    /// Takes in what the kernel has queued until this moment, and lets `read`
    /// read then.
    ///
    /// Questions that are there together are served together: each lets the
    /// others of its thread come first, and the socket is read empty once, after
    /// the last of them was asked. While another thread has the lock, this one
    /// goes on with its other connections.
    async fn caught_up<T>(&self, read: impl FnOnce(&mut State, Stamp) -> T) -> Result<Answer<T>, Error> {
        let asked = self.attempts.load(Ordering::SeqCst);
        tokio::task::yield_now().await;
        if !self.is_drained(asked) {
            self.look()?;
        }
        let (mut enough, mut tries) = (None, 0);
        loop {
            tries += 1;
            if let Some(mut state) = if tries <= TRIES { self.try_lock() } else { Some(self.lock()) } {
                if self.catch_up(&mut state, asked, &mut enough)? {
                    let value = read(&mut state, self.clock.now());
                    return Ok(Answer { value, complete: state.complete });
                }
                tries = 0;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Some of the work before an answer; returns whether it is done.
    ///
    /// A flood of new events can't hold the answer up: it comes when the socket
    /// was seen empty after the question, or when as much was read as waited
    /// when it was not, which is `enough`.
    fn catch_up(&self, state: &mut Guard<'_>, asked: u64, enough: &mut Option<u64>) -> Result<bool, Error> {
        if self.is_drained(asked) {
            self.expire(state);
            return Ok(true);
        }
        state.begin_work();
        self.pump(state)?;
        if self.is_drained(asked) {
            return Ok(true);
        }
        let enough = match *enough {
            Some(enough) => enough,
            None => *enough.insert(state.messages + state.events.most_waiting()? as u64),
        };
        Ok(state.messages >= enough)
    }

    /// Reads the table as it is now.
    ///
    /// # Errors
    /// When the kernel can't be followed any more.
    pub async fn ask<T>(&self, read: impl FnOnce(&Table, Stamp) -> T) -> Result<Answer<T>, Error> {
        self.caught_up(|state, now| read(&state.table, now)).await
    }

    /// The best answer to a question by one key; see [`Table::best`].
    ///
    /// # Errors
    /// When the kernel can't be followed any more.
    pub async fn best(
        &self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
    ) -> Result<Answer<Option<Mapping>>, Error> {
        let question = Question::by_key(key, value, protocol);
        let mut check = Check::default();
        let Answer { value: best, mut complete } = loop {
            let best = self.ask(|table, now| table.best(key, value, protocol, now)).await?;
            let found = best.value.unwrap_or_default();
            if !self.close_dead(&mut check, &question, found.as_slice(), best.complete).await? {
                break best;
            }
        };
        let mut best = match best {
            Ok(best) => best,
            Err(TooMany) => self.best_of_all(key, value, protocol).await?,
        };
        if best.is_none() && check.instead.is_empty() {
            self.ask_kernel(&mut check, &question).await?;
        }
        best = best.into_iter().chain(check.instead).max_by_key(Mapping::rank);
        complete &= !check.failed;
        Ok(Answer { value: best, complete })
    }

    /// [`best`](Self::best) where it takes a walk through the whole table.
    async fn best_of_all(
        &self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
    ) -> Result<Option<Mapping>, Error> {
        let mut best: Option<Mapping> = None;
        self.scan(|mapping| {
            let asked = match protocol {
                Some(protocol) => mapping.original.protocol == protocol,
                None => matches!(mapping.original.protocol, Protocol::Tcp | Protocol::Udp),
            };
            if asked
                && mapping.key(key) == Some(value)
                && best.is_none_or(|best| mapping.rank() > best.rank())
            {
                best = Some(mapping);
            }
        })
        .await?;
        Ok(best)
    }

    /// The newest answers to a question, newest first: one more than `most` where
    /// there are more.
    ///
    /// # Errors
    /// When the kernel can't be followed any more.
    pub async fn find(&self, question: &Question, most: usize) -> Result<Answer<Vec<Mapping>>, Error> {
        let mut check = Check::default();
        let Answer { value, mut complete } = loop {
            let found = self.ask(|table, now| table.find(question, now)).await?;
            let mappings = found.value.as_deref().unwrap_or_default();
            if !self.close_dead(&mut check, question, mappings, found.complete).await? {
                break found;
            }
        };
        let mut found = match value {
            Some(found) => found,
            None => {
                let mut found = Vec::new();
                self.scan(|mapping| {
                    if question.matches(&mapping) {
                        found.push(mapping);
                        if found.len() > 2 * most {
                            keep_newest(&mut found, most + 1);
                        }
                    }
                })
                .await?;
                found
            }
        };
        if check.instead.is_empty()
            && (found.is_empty() || (!complete && !found.iter().any(Mapping::is_live)))
        {
            self.ask_kernel(&mut check, question).await?;
        }
        complete &= !check.failed;
        check
            .instead
            .retain(|mapping| !found.iter().any(|known| known.is_live() && known.reply == mapping.reply));
        found.extend(check.instead);
        keep_newest(&mut found, most + 1);
        Ok(Answer { value: found, complete })
    }

    /// Hands every mapping to `on`, a slice of the table under each hold of the
    /// lock. Mappings that live all the while show exactly once.
    ///
    /// # Errors
    /// When the kernel can't be followed any more.
    pub async fn scan(&self, mut on: impl FnMut(Mapping)) -> Result<(), Error> {
        let mut next = Some(Place::START);
        while let Some(from) = next {
            next = self.scan_slice(from, &mut on).await?;
        }
        Ok(())
    }

    /// One slice of [`scan`](Self::scan): from a slot on, the first of which is
    /// 0; returns where to go on.
    ///
    /// # Errors
    /// When the kernel can't be followed any more.
    pub async fn scan_slice(&self, from: Place, mut on: impl FnMut(Mapping)) -> Result<Option<Place>, Error> {
        if from == Place::START {
            return Ok(self.ask(|table, now| table.scan(from, now, &mut on)).await?.value);
        }
        tokio::task::yield_now().await;
        Ok(self.lock().table.scan(from, self.clock.now(), &mut on))
    }

    /// Of mappings that may have ended without a word, closes those that the
    /// kernel no longer has. While a loss is being mended that is any of them.
    /// Where another life has the reply tuple by now, it is an answer in its
    /// place; the dump that follows puts it into the table. Returns whether the
    /// table must be read again, since something was closed or not all was asked.
    async fn close_dead(
        &self,
        check: &mut Check,
        question: &Question,
        mappings: &[Mapping],
        complete: bool,
    ) -> Result<bool, Error> {
        let doubtful = |mapping: &&Mapping| {
            mapping.is_live()
                && (mapping.silent || !complete)
                && !check.alive.contains(&(mapping.id, mapping.sequence))
        };
        let asked: Vec<Mapping> = mappings.iter().filter(doubtful).take(MOST_VERIFIED).copied().collect();
        if asked.is_empty() || check.failed {
            return Ok(false);
        }
        let Some(flows) = self.question_kernel(asked.iter().map(|mapping| mapping.reply).collect()).await
        else {
            check.failed = true;
            return Ok(false);
        };
        let mut dead = Vec::new();
        for (mapping, flow) in asked.iter().zip(flows) {
            match flow {
                Some(flow) if flow.id == mapping.id => {
                    check.alive.insert((mapping.id, mapping.sequence));
                }
                other => {
                    dead.push(*mapping);
                    self.take_instead(check, question, other);
                }
            }
        }
        if dead.is_empty() {
            // There may be more to ask for.
            return Ok(asked.len() == MOST_VERIFIED);
        }
        self.caught_up(|state, now| {
            dead.iter().for_each(|mapping| state.table.close_life(mapping, now));
            self.note_changes(state);
        })
        .await?;
        Ok(true)
    }

    /// Asks the kernel for what the question and the filter name wholly, where
    /// the table knows nothing of it. The answer is not put into the table:
    /// nobody could say when it ends.
    async fn ask_kernel(&self, check: &mut Check, question: &Question) -> Result<(), Error> {
        let replies = question.reply_tuples(&self.lock().settings.filter);
        if replies.is_empty() || check.failed {
            return Ok(());
        }
        match self.question_kernel(replies).await {
            Some(flows) => flows.into_iter().for_each(|flow| self.take_instead(check, question, flow)),
            None => check.failed = true,
        }
        Ok(())
    }

    /// A connection that the kernel knows and the table does not, if it is an answer.
    fn take_instead(&self, check: &mut Check, question: &Question, flow: Option<Flow>) {
        let Some(flow) = flow.filter(|flow| self.lock().settings.filter.matches(flow)) else { return };
        let now = self.clock.now();
        let mapping = Mapping {
            original: flow.original,
            reply: flow.reply,
            id: flow.id,
            mark: flow.mark,
            opened: flow.start.map_or(now, |nanoseconds| now.back_to_wall(nanoseconds / 1_000_000)),
            closed: None,
            learnt: Learnt::Kernel,
            silent: true,
            sequence: u32::MAX,
        };
        let known = check.instead.iter().any(|other| other.reply == mapping.reply);
        if !known && question.matches(&mapping) {
            check.instead.push(mapping);
        }
    }

    /// What the kernel has for each of these reply tuples, without those that
    /// it is removing. `None` where it does not say in time: one question holds
    /// a lock of the kernel's that emptying its table holds for seconds. So
    /// nothing of ours is locked meanwhile but the socket for such questions.
    async fn question_kernel(&self, replies: Vec<Tuple>) -> Option<Vec<Option<Flow>>> {
        self.stats.kernel_questions.add(replies.len());
        let asking = async {
            let mut query = self.query.clone().lock_owned().await;
            let ask =
                move || replies.iter().map(|reply| query.get_by_reply(reply)).collect::<Result<Vec<_>, _>>();
            tokio::task::spawn_blocking(ask).await
        };
        match tokio::time::timeout(KERNEL_PATIENCE, asking).await {
            Ok(Ok(Ok(flows))) => {
                Some(flows.into_iter().map(|flow| flow.filter(|flow| !flow.status.is_dying())).collect())
            }
            Ok(Ok(Err(error))) => {
                log::debug!("{error}");
                None
            }
            Ok(Err(_)) | Err(_) => {
                log::debug!("the kernel does not say in time whether a connection lives");
                None
            }
        }
    }
}

/// What was learnt of the kernel for one question.
#[derive(Default)]
struct Check {
    /// Lives that the kernel has, by id and number.
    alive: HashSet<(u32, u32)>,
    /// Connections that the table does not know.
    instead: Vec<Mapping>,
    /// The kernel did not say: what is answered is not sure.
    failed: bool,
}

/// Sorts mappings, newest first, and drops the older ones of more than `most`.
fn keep_newest(mappings: &mut Vec<Mapping>, most: usize) {
    mappings.sort_unstable_by_key(|mapping| std::cmp::Reverse(mapping.age_rank()));
    mappings.truncate(most);
}

impl Question {
    /// The question that a look-up by one key is.
    fn by_key(key: Key, value: KeyValue, protocol: Option<Protocol>) -> Self {
        let (address, port) = match value {
            KeyValue::Ip(address) => (Some(address.into()), None),
            KeyValue::Port(port) => (None, Some(port)),
        };
        let mut question = Question { protocol, lives: Lives::Live, ..Question::default() };
        match key {
            Key::SrcIp => question.src_ip = address,
            Key::SrcPort => question.src_port = port,
            Key::NatIp => question.nat_ip = address,
            Key::NatPort => question.nat_port = port,
            Key::DstIp => question.dst_ip = address,
            Key::DstPort => question.dst_port = port,
        }
        question
    }
}
