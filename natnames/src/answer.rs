//! What is known of an address at some moment.

use crate::fact::Fact;
use crate::host::Host;
use crate::mac::Mac;

/// What is known of an address at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Who had it, if somebody is known.
    pub found: Option<Found<'a>>,
    /// The sources that were not followed at that moment, so that they may have known another host.
    pub gaps: Vec<u8>,
}

/// Who had an address: what all sources together know of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'a> {
    /// Its name.
    pub name: Option<&'a str>,
    /// The MAC address of its interface.
    pub mac: Option<Mac>,
    /// Who pays for it.
    pub subscriber: Option<&'a str>,
    /// The fact that decided.
    pub fact: &'a Fact,
    /// Whether it is certain that the host had the address at this moment.
    pub is_certain: bool,
    /// Facts that say something else.
    pub others: Vec<&'a Fact>,
}

impl<'a> Found<'a> {
    /// What one fact says, as if it were certain.
    pub fn of(fact: &'a Fact) -> Self {
        Self::new(fact, true)
    }

    pub(crate) fn new(fact: &'a Fact, is_certain: bool) -> Self {
        let mut found =
            Self { name: None, mac: None, subscriber: None, fact, is_certain, others: Vec::new() };
        found.complete_with(&fact.host);
        found
    }

    /// Takes over what is not known yet. Returns whether that is something.
    pub(crate) fn complete_with(&mut self, host: &'a Host) -> bool {
        let before = (self.name, self.mac, self.subscriber);
        self.name = self.name.or(host.name.as_deref());
        self.mac = self.mac.or(host.mac);
        self.subscriber = self.subscriber.or(host.subscriber.as_deref());
        before != (self.name, self.mac, self.subscriber)
    }

    /// Whether this can be said of the same device.
    pub(crate) fn agrees(&self, other: &Host) -> bool {
        let same_text = |a: Option<&str>, b: &Option<String>| {
            a.zip(b.as_deref()).is_none_or(|(a, b)| a.eq_ignore_ascii_case(b))
        };
        self.mac.zip(other.mac).is_none_or(|(a, b)| a == b)
            && same_text(self.name, &other.name)
            && same_text(self.subscriber, &other.subscriber)
    }

    /// Whether it is this device: one with this MAC address, name or subscriber.
    pub fn is(&self, who: &Who) -> bool {
        match who {
            Who::Mac(mac) => self.mac == Some(*mac),
            Who::Name(name) => {
                let texts = [self.name, self.subscriber];
                texts.into_iter().flatten().any(|text| text.to_lowercase() == name.to_lowercase())
            }
        }
    }
}

/// Which device a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// The one with this MAC address.
    Mac(Mac),
    /// The one with this name, or of this subscriber; upper and lower case are the same.
    Name(String),
}
