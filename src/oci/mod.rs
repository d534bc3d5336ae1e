//! OCI names and documents: references, platforms, image configs, manifests. Pure over bytes handed in.
//!
//! Knows no network, no file and no store; whoever fetched the bytes parses them here.

pub mod config;
pub mod manifest;
pub mod platform;
pub mod reference;

use serde::{Deserialize, Deserializer};

/// Reads `null` as a field that is not there; tools written in Go write it for empty lists and maps.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}
