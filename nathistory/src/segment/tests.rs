//! Segments as a whole.

mod damage;
mod model;
mod search;
