//! A hostile corpus: contexts, archives, images and steps that try to get out of where they belong, through the real binary, as
//! root and as an ordinary user. Every case ends with the same questions: was anything read or touched that lies outside, and
//! is any process, mount or temporary file left?

#![allow(unreachable_pub, clippy::print_stdout, reason = "a test: what its modules share is public to them")]

mod archives;
mod bombs;
mod contexts;
mod images;
mod mounts;
mod outside;
mod processes;
mod raw;
#[path = "../e2e/rig.rs"]
#[allow(dead_code, reason = "shared with the end-to-end tests, which use more of it")]
mod rig;
mod sandbox;
#[path = "../e2e/traces.rs"]
#[allow(dead_code, reason = "shared with the end-to-end tests, which use more of it")]
mod traces;
