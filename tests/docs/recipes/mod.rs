//! The recipes of doc/RECIPES.md, verbatim, with the real programs: the application behind the web server gets the inside
//! address of every client behind the NAT, and the site works when the daemon does not respond. `site` has what all of
//! them share, `check` what is checked for each.

mod apache;
mod caddy;
mod check;
mod haproxy;
mod nginx;
mod site;
