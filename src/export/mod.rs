//! A finished image on its way out: the store, archives, files, registries.

pub mod output;
