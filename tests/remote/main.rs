//! Sources that are elsewhere, through the real binary: git and http served on loopback.

#![expect(clippy::disallowed_methods, reason = "tests start programs and read the environment")]

mod add_git;
mod add_http;
mod contexts;
mod epoch;
mod hostile;
mod server;
mod world;
