//! Segments as a whole.

mod damage;
mod measure;
mod model;
mod search;
mod trace;
