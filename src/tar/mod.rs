//! Tars as bytes: the canonical writer and the safe reader (owner: layers helper; entry.rs is shared contract).

pub mod entry;
