//! What a source says.

use ipnetwork::IpNetwork;

use crate::host::Host;
use crate::time::Millis;

/// What a source says of an address, or of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The address; a network with a shorter prefix stands for each address in it.
    pub net: IpNetwork,
    /// Who has it.
    pub host: Host,
    /// Since when, as the source says. `None` if it does not: then it is known from the moment at which it was learnt.
    pub since: Option<Millis>,
    /// How exact `since` is, in milliseconds: it can be that much later. Lease files have whole seconds.
    pub within: Millis,
    /// When it ends, unless the source says otherwise before: a lease that is not renewed.
    pub until: Option<Millis>,
}

/// What changes, as a source reports it. What is reported of one address is in the order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A whole list begins: after [`Report::ListEnds`], what was not in it has ended. A source begins with a list, or with
    /// [`Report::Followed`].
    ListBegins {
        /// Since when the source can have missed something; `None` if it has not. What is not in the list ended between
        /// this moment and now.
        missed_since: Option<Millis>,
    },
    /// Somebody has an address. If it is the same host as before, a lease was renewed, or nothing has changed. If it
    /// is another one, the other's time ends where this one's begins. A claim whose `until` is past is one that has ended.
    Holds(Claim),
    /// Nobody has the address any more, as far as this source knows: since this moment, or `None` for now.
    Ends {
        /// The address.
        net: IpNetwork,
        /// When it ended.
        at: Option<Millis>,
    },
    /// Like [`Report::Ends`], from a source that can be late: an end before the begin of what is known belongs to an
    /// earlier host.
    Stops {
        /// The address.
        net: IpNetwork,
        /// When it ended.
        at: Millis,
    },
    /// The list is whole.
    ListEnds,
    /// The source is followed again, and what it said before still holds: it has no list.
    Followed,
}

impl Claim {
    /// A claim of one address, from the moment at which it is learnt.
    pub fn of(address: std::net::IpAddr, host: Host) -> Self {
        Self { net: address.into(), host, since: None, within: 0, until: None }
    }
}
