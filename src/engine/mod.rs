//! Does the steps of a plan: key, lookup, and on a miss the work; one loop owns all build state.
//!
//! Knows no Dockerfile text, no registry and no terminal; what it needs from outside comes in through [`Bases`] and friends.

pub mod explain;
pub mod record;
pub mod slots;
