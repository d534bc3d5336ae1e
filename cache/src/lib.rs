//! The content-addressed store under rbuild: digests, bytes, records, names, locks, leases, GC.
//!
//! Knows no Dockerfile and no image.

pub mod digest;
