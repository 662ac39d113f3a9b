//! What can be asked of the tracker.

use nfct::{Error, Protocol};

use super::{State, Tracker};
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{KeyValue, Learnt, Mapping};
use crate::question::{Lives, Question};
use crate::table::{Place, Table, TooMany};

/// Mappings of one answer of which the kernel is asked whether they still live.
const MOST_VERIFIED: usize = 64;

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
    /// A flood of new events can't hold the answer up: it comes when the socket
    /// was seen empty after the question, or when as much was read as waited
    /// when it was not.
    async fn caught_up<T>(&self, read: impl FnOnce(&mut State, Stamp) -> T) -> Result<Answer<T>, Error> {
        let (mut drained, mut enough) = (None, None);
        loop {
            {
                let mut state = self.lock();
                let drained = *drained.get_or_insert(state.drained);
                self.pump(&mut state)?;
                let enough = match enough {
                    _ if state.drained > drained => 0,
                    Some(enough) => enough,
                    None => *enough.insert(state.messages + state.events.most_waiting()? as u64),
                };
                if state.messages >= enough {
                    let value = read(&mut state, self.clock.now());
                    return Ok(Answer { value, complete: state.complete });
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// The same, as often as it takes until `read` says that what it read lives;
    /// the lock is free in between.
    async fn caught_up_and_alive<T>(
        &self,
        mut read: impl FnMut(&mut State, Stamp) -> Option<T>,
    ) -> Result<Answer<T>, Error> {
        loop {
            let Answer { value, complete } = self.caught_up(&mut read).await?;
            if let Some(value) = value {
                return Ok(Answer { value, complete });
            }
        }
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
        let best = self.caught_up_and_alive(|state, now| {
            let best = state.table.best(key, value, protocol, now);
            (!self.close_dead(state, best.unwrap_or_default().as_slice(), now)).then_some(best)
        });
        let Answer { value: best, complete } = best.await?;
        let mut best = match best {
            Ok(best) => best,
            Err(TooMany) => self.best_of_all(key, value, protocol).await?,
        };
        if best.is_none() {
            let question = Question::by_key(key, value, protocol);
            let asked = self.caught_up(|state, now| self.ask_kernel(state, &question, now)).await?;
            best = asked.value.into_iter().max_by_key(Mapping::rank);
        }
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
        let indexed = self.caught_up_and_alive(|state, now| {
            let found = state.table.find(question, now);
            (!self.close_dead(state, found.as_deref().unwrap_or_default(), now)).then_some(found)
        });
        let Answer { value, complete } = indexed.await?;
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
        if found.is_empty() || (!complete && !found.iter().any(Mapping::is_live)) {
            let asked = self.caught_up(|state, now| self.ask_kernel(state, question, now)).await?;
            found.extend(asked.value);
        }
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
    /// kernel no longer has. While a loss is being mended that is any of them;
    /// where another life has the same reply tuple by now, it is put in its
    /// place until the dump tells more. Returns whether anything changed.
    fn close_dead(&self, state: &mut State, mappings: &[Mapping], now: Stamp) -> bool {
        let complete = state.complete;
        let doubtful = mappings.iter().filter(|mapping| mapping.is_live() && (mapping.silent || !complete));
        let mut any = false;
        for mapping in doubtful.take(MOST_VERIFIED) {
            self.stats.kernel_questions.increment();
            let flow = match state.query.get_by_reply(&mapping.reply) {
                Ok(flow) => flow.filter(|flow| !flow.status.is_dying()),
                Err(error) => {
                    log::debug!("{error}");
                    continue;
                }
            };
            match flow {
                Some(flow) if flow.id == mapping.id => continue,
                Some(flow) if state.settings.filter.matches(&flow) => {
                    state.table.open(&flow, Learnt::Kernel, now);
                }
                _ => state.table.close_life(mapping, now),
            }
            any = true;
        }
        self.note_changes(state);
        any
    }

    /// Asks the kernel for what the question and the filter name wholly, where
    /// the table knows nothing of it. The answer is not put into the table:
    /// nobody could say when it ends.
    fn ask_kernel(&self, state: &mut State, question: &Question, now: Stamp) -> Vec<Mapping> {
        let mut found = Vec::new();
        for reply in question.reply_tuples(&state.settings.filter) {
            self.stats.kernel_questions.increment();
            match state.query.get_by_reply(&reply) {
                Ok(Some(flow)) if !flow.status.is_dying() && state.settings.filter.matches(&flow) => {
                    let opened =
                        flow.start.map_or(now, |nanoseconds| now.back_to_wall(nanoseconds / 1_000_000));
                    found.push(Mapping {
                        original: flow.original,
                        reply: flow.reply,
                        id: flow.id,
                        mark: flow.mark,
                        opened,
                        closed: None,
                        learnt: Learnt::Kernel,
                        silent: true,
                        sequence: u32::MAX,
                    });
                }
                Ok(_) => {}
                Err(error) => log::debug!("{error}"),
            }
        }
        found.retain(|mapping| question.matches(mapping));
        found
    }
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
