//! The part of the configuration that the tracker uses.

use std::sync::Arc;
use std::time::Duration;

use crate::addresses::Interfaces;
use crate::config::{Config, Key, NetlinkConfig};
use crate::filter::Filter;
use crate::table::Limits;

/// The settings in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Which connections are tracked.
    pub filter: Arc<Filter>,
    /// The key of the legacy routes.
    pub key: Key,
    /// How long lookups still find a closed mapping.
    pub del_delay: Duration,
    /// The time between two removals of old mappings.
    pub garbage_cleaner_interval: Duration,
    /// The age at which a closed mapping is old.
    pub life_span: Duration,
    /// The time between two comparisons of the table with the kernel's.
    pub sweep_interval: Duration,
    /// How many mappings are kept at most.
    pub limits: Limits,
    /// The options of the event socket.
    pub netlink: NetlinkConfig,
    /// Whether a recorder is told of each begin and each end. A reload does not change this.
    pub has_recorder: bool,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            // The tracker adds the addresses.
            filter: Arc::new(Filter::new(&config.filter, &Interfaces::default())),
            key: config.data.key_name,
            del_delay: config.data.del_delay,
            garbage_cleaner_interval: config.data.garbage_cleaner_interval,
            life_span: config.data.life_span,
            sweep_interval: config.data.sweep_interval,
            limits: Limits { closed: config.data.max_closed, all: config.data.max_mappings },
            netlink: config.netlink.clone(),
            has_recorder: config.history.path.is_some(),
        }
    }
}
