//! A layer's forms and its index.

pub mod encoding;
pub mod identity;
pub mod index;
#[cfg(test)]
mod samples;
