//! README.md and the guides are true: `typed` runs their commands and compares the output; `listed` has what cannot be
//! run, with the reason and what is checked instead; `links` checks links and that the log's warnings are explained.
//! `recipes`, `monitoring` and `manual` test doc/RECIPES.md, doc/monitoring, and the manual pages.

mod blocks;
mod documents;
mod links;
mod listed;
mod manual;
mod monitoring;
mod recipes;
mod typed;
