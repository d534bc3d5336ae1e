//! OCI names and documents: references, platforms, image configs, manifests. Pure over bytes handed in.
//!
//! Knows no network, no file and no store; whoever fetched the bytes parses them here.

pub mod config;
pub mod manifest;
pub mod platform;
pub mod reference;
