//! Base images for the engine: which layers are in the store, and how the others get there.

use std::collections::BTreeMap;

use rbuild_cache::digest::LayerId;

use super::World;
use crate::cancel::{Cancel, Cancelled};
use crate::catalog::Image;
use crate::engine::{self, StepError};
use crate::event::Vertex;
use crate::plan::graph::BaseImage;

/// The images of a plan by handle.
#[derive(Debug)]
pub(super) struct Bases<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) images: &'a BTreeMap<String, Image>,
}

impl Bases<'_> {
    fn usable(&self, id: &LayerId) -> bool {
        let layers = self.world.layers;
        layers.record(id).ok().flatten().is_some_and(|record| layers.has_form(&record).unwrap_or(false))
    }
}

impl engine::Bases for Bases<'_> {
    fn present(&self, base: &BaseImage) -> bool {
        self.images[&base.handle].layers.iter().all(|layer| self.usable(&layer.layer))
    }

    fn layers(&self, base: &BaseImage, vertex: &Vertex, cancel: &Cancel) -> Result<Vec<LayerId>, StepError> {
        let image = &self.images[&base.handle];
        let fetched = self.world.runtime.block_on(self.world.puller.ensure_layers(image, vertex, cancel));
        fetched.map_err(|error| {
            if cancel.is_cancelled() {
                StepError::Cancelled(Cancelled)
            } else {
                match error.help() {
                    help @ Some(_) => StepError::Refused { message: format!("pull {}: {error}", base.reference), help },
                    None => StepError::world(format!("pull {}", base.reference), &error),
                }
            }
        })?;
        Ok(image.layer_ids())
    }
}
