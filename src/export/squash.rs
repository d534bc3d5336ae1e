//! `--squash`: the layers of an image as one.

use super::pack::with_layers;
use super::{ExportError, Exporter, Part, Surroundings};
use crate::catalog::{Image, ImageLayer};
use crate::event::{Outcome, Vertex};
use crate::oci::manifest;

/// What becomes one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Squash {
    /// `--squash`: what the build made; the base's layers stay.
    Own,
    /// `--squash-all`: everything.
    All,
}

impl Exporter {
    /// The images with their layers made one; those that have no more than one anyway stay as they are.
    pub fn squash(&self, parts: &[Part], squash: Squash, around: &Surroundings<'_>) -> Result<Vec<Part>, ExportError> {
        let vertex = around.progress.vertex("squashing layers", around.inputs);
        vertex.start();
        let result = parts.iter().map(|part| self.squash_part(part, squash, &vertex)).collect::<Result<Vec<_>, _>>();
        vertex.finish(match &result {
            Ok(_) => Outcome::Done,
            Err(_) if self.cancel.is_cancelled() => Outcome::Canceled,
            Err(error) => Outcome::Error(error.to_string()),
        });
        result
    }

    fn squash_part(&self, part: &Part, squash: Squash, vertex: &Vertex) -> Result<Part, ExportError> {
        let kept = match squash {
            Squash::Own => part.base,
            Squash::All => 0,
        };
        if part.image.layers.len() < kept + 2 {
            return Ok(part.clone());
        }
        let stack = self.runtime.block_on(self.puller.ensure_layers(&part.image, vertex, &self.cancel))?;
        let (below, above) = stack.split_at(kept);
        let record = self.layers.squash(below, above)?;
        let mut image = part.image.clone();
        image.layers.truncate(kept);
        let layer = ImageLayer { diff_id: record.diff_id, layer: record.id, descriptor: None, from: Vec::new() };
        image.layers.push(layer);
        let image = with_history(with_layers(&image)?, kept)?;
        Ok(Part { platform: part.platform.clone(), image, base: kept })
    }
}

/// The image with a history that gives all layers but the lowest `kept` to one last entry.
fn with_history(image: Image, kept: usize) -> Result<Image, ExportError> {
    let fault = |source| ExportError::Config { id: image.id(), source };
    let mut config: serde_json::Value = manifest::read("image config", image.config.as_bytes()).map_err(fault)?;
    let created = config["created"].clone();
    if let Some(history) = config["history"].as_array_mut() {
        let mut layers = 0;
        for entry in history.iter_mut().filter(|entry| entry["empty_layer"] != true) {
            if layers >= kept {
                entry["empty_layer"] = true.into();
            }
            layers += 1;
        }
        let merged = layers.saturating_sub(kept);
        history
            .push(serde_json::json!({ "created": created, "comment": format!("{merged} layers squashed by rbuild") }));
    }
    Ok(Image { config: config.to_string(), ..image })
}
