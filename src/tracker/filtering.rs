//! What the filter in force was made with: the addresses of the interfaces that it names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::sync::Arc;

use log::Level;
use nfct::Error;

use crate::addresses::{AddressReader, Interfaces};
use crate::filter::Filter;

/// What the filter in force was made with. It is locked while another one comes into force, so
/// that this happens one after the other.
pub(super) struct Filtering {
    reader: AddressReader,
    /// What the log says about the addresses of each interface that the filter names.
    stands_for: BTreeMap<String, String>,
    /// What to log once the filter with these addresses is in force.
    news: Vec<(Level, String)>,
    /// The number of conditions that the kernel does not check, because its filter would be too
    /// long.
    unchecked: usize,
}

impl Filtering {
    pub(super) fn new(reader: AddressReader) -> Self {
        Self { reader, stands_for: BTreeMap::new(), news: Vec::new(), unchecked: 0 }
    }

    /// The addresses that the interfaces have now.
    pub(super) fn read_addresses(&mut self) -> Result<Interfaces, Error> {
        self.reader.read().map_err(following_addresses)
    }

    /// A filter with the addresses that its interfaces have now.
    pub(super) fn resolve(&mut self, filter: &Arc<Filter>) -> Result<Arc<Filter>, Error> {
        if filter.interfaces().next().is_none() {
            self.stands_for.clear();
            return Ok(Arc::clone(filter));
        }
        let interfaces = self.read_addresses()?;
        let logged = std::mem::take(&mut self.stands_for);
        for name in filter.interfaces() {
            let words = addresses_in_words(name, &interfaces);
            if logged.get(name) != Some(&words) {
                self.news.push((Level::Info, words.clone()));
            }
            self.stands_for.insert(name.to_owned(), words);
        }
        Ok(Arc::new(filter.with_addresses(&interfaces)))
    }

    /// Notes for the log that the addresses could not be put into force.
    pub(super) fn warn_of_failure(&mut self, error: &Error) {
        self.news.push((Level::Warn, format!("the addresses have changed, but {error}; trying again")));
    }

    /// Notes how many conditions the kernel does not check; for the log, if it is the first time.
    pub(super) fn note_unchecked(&mut self, unchecked: usize) {
        if unchecked > 0 && self.unchecked == 0 {
            self.news.push((
                Level::Warn,
                format!("lists are too long for the kernel's filter: {unchecked} left out"),
            ));
        }
        self.unchecked = unchecked;
    }

    /// What to log, once. Writing to the log can block, so this must not be locked then.
    #[must_use]
    pub(super) fn take_news(&mut self) -> News {
        News(std::mem::take(&mut self.news))
    }
}

/// Lines to log.
pub(super) struct News(Vec<(Level, String)>);

impl News {
    pub(super) fn log(self) {
        self.0.into_iter().for_each(|(level, line)| log::log!(level, "[filter]: {line}"));
    }
}

pub(super) fn following_addresses(source: io::Error) -> Error {
    Error::new("following the addresses of the interfaces", source)
}

fn addresses_in_words(name: &str, interfaces: &Interfaces) -> String {
    let mut words = String::new();
    for address in interfaces.of(name) {
        let before = if words.is_empty() { "" } else { ", " };
        let _ = write!(words, "{before}{address}");
    }
    match words.is_empty() {
        true => format!("the interface {name} has no address, so @{name} stands for none"),
        false => format!("@{name} stands for {words}"),
    }
}
