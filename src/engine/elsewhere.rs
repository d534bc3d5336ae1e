//! Results of steps that other machines made, as far as the engine is concerned: looked at when the store has none.
//!
//! A result found here is a hit although nothing of its layer is in the store. Files are fetched when a step reads them; if they
//! cannot be had any more, the layer is given up and the build goes back to the step that makes it. Knows no format and no
//! network: whoever implements [`Elsewhere`] does.

use std::collections::BTreeMap;

use rbuild_cache::digest::{Blake3, LayerId, StepKey};

use super::record::StepRecord;
use super::{Engine, StepError};

/// What is known without fetching anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Results.
    pub records: BTreeMap<StepKey, StepRecord>,
    /// Keys under the names of whole inputs.
    pub aliases: BTreeMap<String, StepKey>,
}

/// What is wanted of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Its entries: names, metadata, digests.
    Entries,
    /// Its files.
    Files,
}

/// Results made elsewhere.
pub trait Elsewhere: Send + Sync {
    /// Everything that is known.
    fn known(&self) -> &Known;
    /// Whether a layer may be had; false once it was given up.
    fn offers(&self, layer: &LayerId) -> bool;
    /// Gets layers into the store, verified. What cannot be had is given up, said why, and an error.
    fn fetch(&self, layers: &[LayerId], need: Need) -> Result<(), StepError>;
    /// Gets the content of a cache mount into the store, as a layer; `None` if nobody has it, or it cannot be had.
    fn fetch_mount(&self, mount: &Blake3) -> Option<LayerId>;
    /// How many layers were given up.
    fn given_up(&self) -> usize;
}

impl Engine<'_> {
    /// Whether what is wanted of a layer is in the store.
    fn is_here(&self, id: &LayerId, need: Need) -> bool {
        match need {
            Need::Entries => self.layers.has_index(id).unwrap_or(false),
            Need::Files => self.usable(id),
        }
    }

    /// Fetches what is offered and not here.
    pub(super) fn ensure(&self, ids: &[LayerId], need: Need) -> Result<(), StepError> {
        let missing = |id: &&LayerId| self.elsewhere.offers(id) && !self.is_here(id, need);
        let missing: Vec<LayerId> = ids.iter().filter(missing).copied().collect();
        if missing.is_empty() { Ok(()) } else { self.elsewhere.fetch(&missing, need) }
    }

    /// Whether a result's layer can be had, here or elsewhere.
    pub(super) fn attainable(&self, id: &LayerId) -> bool {
        self.usable(id) || self.elsewhere.offers(id)
    }
}
