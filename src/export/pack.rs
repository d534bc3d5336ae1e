//! An image in the form it leaves in: manifest, config, and layer blobs as descriptors.
//!
//! Deterministic: the same image and format give the same bytes. What was pulled keeps its blobs, and its manifest too
//! unless the format asks for something else.

use std::collections::BTreeMap;

use super::output::{Annotations, Format};
use super::{ExportError, Exporter, Part, Subject};
use crate::catalog::record::platform_of;
use crate::catalog::{Image, ImageId, ImageLayer};
use crate::event::{Vertex, Warning};
use crate::layers::{Framing, LayerError};
use crate::oci::config::ImageConfig;
use crate::oci::manifest::{self, Descriptor, Document, Family, Manifest, Packing};
use crate::oci::platform::Platform;

/// The annotation Docker and containerd show as the creation time.
pub(super) const CREATED: &str = "org.opencontainers.image.created";

/// One image, ready to be written or sent.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub(super) id: ImageId,
    pub(super) platform: Platform,
    /// From the config.
    pub(super) created: Option<String>,
    pub(super) manifest: Document,
    pub(super) config: Descriptor,
    pub(super) config_bytes: Vec<u8>,
    /// From the bottom; equal layers appear as often as the image has them.
    pub(super) layers: Vec<Blob>,
}

/// A layer's blob: in the store under its digest, or to be made or fetched.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) descriptor: Descriptor,
    pub(super) layer: ImageLayer,
    /// How it is made from the layer; `None` if it is what `layer` came as.
    pub(super) framing: Option<Framing>,
}

impl Packed {
    /// The descriptor for an index: with the platform, and annotations meant for it.
    pub(super) fn entry(&self, annotations: &Annotations) -> Descriptor {
        let mut entry = self.manifest.descriptor();
        entry.platform = Some(self.platform.clone());
        entry.annotations = matching(&annotations.manifest_descriptor, &self.platform);
        entry
    }
}

impl Exporter {
    /// Packs one image. `ready` hears of each blob as soon as it is known, before the next is compressed.
    pub(super) fn pack(
        &self,
        image: &Image,
        format: &Format,
        annotations: &Annotations,
        vertex: &Vertex,
        ready: &mut dyn FnMut(&Blob),
    ) -> Result<Packed, ExportError> {
        let id = image.id();
        let config = image.parsed().map_err(|source| ExportError::Config { id, source })?;
        let platform = platform_of(&config);
        let mut own = image.annotations.clone();
        own.extend(matching(&annotations.manifest, &platform));
        if let Some((manifest, parsed)) = unchanged(image, format, &own) {
            let layers: Vec<_> = image
                .layers
                .iter()
                .zip(&parsed.layers)
                .map(|(layer, descriptor)| Blob { descriptor: descriptor.clone(), layer: layer.clone(), framing: None })
                .collect();
            layers.iter().for_each(ready);
            return Ok(finished(image, id, platform, &config, manifest, parsed.config, layers));
        }
        let family = format.family.unwrap_or(Family::Oci);
        let mut layers = Vec::new();
        let plain = Format { packing: Some(Packing::Tar), force: true, ..format.clone() };
        for (n, layer) in image.layers.iter().enumerate() {
            self.cancel.check()?;
            let as_tar = is_zstd(layer) && format.unzstd_from.is_some_and(|first| n >= first);
            let (descriptor, framing) = self.pack_layer(layer, if as_tar { &plain } else { format }, family, vertex)?;
            let blob = Blob { descriptor, layer: layer.clone(), framing };
            ready(&blob);
            layers.push(blob);
        }
        let config_descriptor = Descriptor::of(family.config(), image.config.as_bytes());
        let manifest = Document::of_manifest(&Manifest {
            schema_version: 2,
            media_type: Some(family.manifest()),
            artifact_type: None,
            config: config_descriptor.clone(),
            layers: layers.iter().map(|blob| blob.descriptor.clone()).collect(),
            annotations: own,
            other: BTreeMap::new(),
        });
        Ok(finished(image, id, platform, &config, manifest, config_descriptor, layers))
    }

    /// The blob of a layer: the one it came as, unless another form is forced; else one made here, once.
    fn pack_layer(
        &self,
        layer: &ImageLayer,
        format: &Format,
        family: Family,
        vertex: &Vertex,
    ) -> Result<(Descriptor, Option<Framing>), ExportError> {
        let wanted = format.packing.unwrap_or(Packing::Gzip);
        if let Some(found) = &layer.descriptor {
            let packing = manifest::packing(&found.media_type);
            if !format.force || packing.is_none() || (packing == Some(wanted) && format.level.is_none()) {
                let mut kept = found.clone();
                kept.media_type = family.convert_layer(&found.media_type);
                return Ok((kept, None));
            }
            let one = Image { layers: vec![layer.clone()], ..Image::default() };
            self.runtime.block_on(self.puller.ensure_layers(&one, vertex, &self.cancel))?;
        }
        let framing = format.framing();
        let record = self.layers.record(&layer.layer)?.ok_or(LayerError::Missing(layer.layer))?;
        // Known is enough: whether the bytes are needed is for the destination to say.
        let packed = match self.layers.known_compressed(&record, framing)? {
            Some(known) => known,
            None => self.layers.compressed(&layer.layer, framing, self.threads)?,
        };
        Ok((Descriptor::new(family.layer(wanted), packed.digest, packed.size), Some(framing)))
    }
}

impl Exporter {
    /// Lowers the times of files in layers that the build made to the subject's epoch. Layers below stay as they are.
    pub(super) fn rewrite(&self, subject: &mut Subject, vertex: &Vertex) -> Result<(), ExportError> {
        let Some(epoch) = subject.epoch else {
            let short = "rewrite-timestamp is specified, but no source-date-epoch was found".to_owned();
            let detail = vec!["Set SOURCE_DATE_EPOCH in the environment or as a build-arg.".to_owned()];
            vertex.warn(Warning { short, detail, url: None, place: None });
            return Ok(());
        };
        let line = format!("rewriting layers with source-date-epoch {epoch}");
        vertex.status(&line, 0, 0, false);
        for Part { image, base, .. } in &mut subject.images {
            let before = image.layers.clone();
            for layer in image.layers.iter_mut().skip(*base) {
                let record = self.layers.clamp(&layer.layer, epoch)?;
                if record.id != layer.layer {
                    *layer =
                        ImageLayer { diff_id: record.diff_id, layer: record.id, descriptor: None, from: Vec::new() };
                }
            }
            if image.layers != before {
                *image = with_layers(image)?;
            }
        }
        vertex.done_part(line);
        Ok(())
    }
}

/// The image with a config that names its layers as they are now.
pub(super) fn with_layers(image: &Image) -> Result<Image, ExportError> {
    let fault = |source| ExportError::Config { id: image.id(), source };
    // As a value, so that nothing else in the config changes its place or form.
    let mut config: serde_json::Value = manifest::read("image config", image.config.as_bytes()).map_err(fault)?;
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
    config["rootfs"]["diff_ids"] = serde_json::json!(diff_ids);
    Ok(Image { config: config.to_string(), manifest: None, ..image.clone() })
}

/// The manifest an image came with, if nothing about it is to change.
fn unchanged(image: &Image, format: &Format, own: &BTreeMap<String, String>) -> Option<(Document, Manifest)> {
    let document = image.manifest.as_ref()?;
    let Ok(manifest::Parsed::Manifest(parsed)) = document.parse() else { return None };
    let family = if *document.media_type() == Family::Docker.manifest() { Family::Docker } else { Family::Oci };
    if format.unzstd_from.is_some() && image.layers.iter().any(is_zstd) {
        return None;
    }
    let same_family = format.family.is_none_or(|wanted| wanted == family);
    (same_family && !format.force && own.is_empty() && parsed.layers.len() == image.layers.len())
        .then(|| (document.clone(), parsed))
}

fn is_zstd(layer: &ImageLayer) -> bool {
    layer.descriptor.as_ref().is_some_and(|blob| manifest::packing(&blob.media_type) == Some(Packing::Zstd))
}

fn finished(
    image: &Image,
    id: ImageId,
    platform: Platform,
    config: &ImageConfig,
    manifest: Document,
    config_descriptor: Descriptor,
    layers: Vec<Blob>,
) -> Packed {
    Packed {
        id,
        platform,
        created: config.created.clone(),
        manifest,
        config: config_descriptor,
        config_bytes: image.config.clone().into_bytes(),
        layers,
    }
}

/// The annotations meant for a platform: those for all, then those for just this one.
pub(super) fn matching(given: &[(Option<String>, String, String)], platform: &Platform) -> BTreeMap<String, String> {
    let for_all = given.iter().filter(|(wanted, _, _)| wanted.is_none());
    let for_this = given.iter().filter(|(wanted, _, _)| wanted.as_ref().is_some_and(|w| is_for(w, platform)));
    for_all.chain(for_this).map(|(_, key, value)| (key.clone(), value.clone())).collect()
}

/// Whether the platform named in an annotation is this one.
pub(super) fn is_for(wanted: &str, platform: &Platform) -> bool {
    Platform::parse(wanted, platform).is_ok_and(|wanted| wanted.normalize() == platform.normalize())
}
