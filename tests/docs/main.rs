//! What README.md and the guides show is run: `typed` types their commands and compares the output; `listed` has what
//! cannot be typed, with the reason and what is checked instead; `links` sees that links lead somewhere and that the
//! log's warnings are explained. `nginx`, `monitoring` and `manual` hold the recipe for nginx, doc/monitoring, and the
//! manual pages.

mod blocks;
mod documents;
mod links;
mod listed;
mod manual;
mod monitoring;
mod nginx;
mod typed;
