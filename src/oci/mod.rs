//! OCI names and documents (owner: registry helper; config.rs is shared contract).

pub mod config;
