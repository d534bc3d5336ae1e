//! The layers a step's root is made of, from the bottom, before anybody asked for their files.
//!
//! Knows which layers there are and what identifies them in keys; fetching base layers is [`Bases`](super::Bases)' job.

use std::sync::Arc;

use rbuild_cache::digest::{Blake3, DiffId};

use super::record::{Facts, StepLayer};
use crate::plan::graph::BaseImage;

/// One layer of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StackLayer {
    /// The `index`-th layer of a base image; maybe not fetched yet.
    Base {
        /// The image.
        base: Arc<BaseImage>,
        /// Which of its layers, from the bottom.
        index: usize,
    },
    /// A layer made by a step.
    Built(StepLayer),
}

impl StackLayer {
    /// What stands for it in a key: a base layer's diffID, a built layer's tree and the times somebody chose.
    pub fn identity(&self) -> String {
        match self {
            Self::Base { base, index } => base.diff_ids[*index].to_string(),
            Self::Built(StepLayer { tree, times: None, .. }) => format!("tree:{tree}"),
            Self::Built(StepLayer { tree, times: Some(times), .. }) => format!("tree:{tree} times:{times}"),
        }
    }
    /// The digest of its uncompressed tar.
    pub fn diff_id(&self) -> DiffId {
        match self {
            Self::Base { base, index } => base.diff_ids[*index],
            Self::Built(layer) => layer.diff_id,
        }
    }
}

/// A root as a list of layers from the bottom. Clones share the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack(Arc<Vec<StackLayer>>);

impl Stack {
    /// All layers of a base image.
    pub fn of_base(base: &BaseImage) -> Self {
        let base = Arc::new(base.clone());
        let layers = (0..base.diff_ids.len()).map(|index| StackLayer::Base { base: base.clone(), index });
        Self(Arc::new(layers.collect()))
    }

    /// This stack with a layer on top.
    #[must_use]
    pub fn with(&self, layer: StepLayer) -> Self {
        let mut layers = self.0.as_ref().clone();
        layers.push(StackLayer::Built(layer));
        Self(Arc::new(layers))
    }

    /// The layers from the bottom.
    pub fn layers(&self) -> &[StackLayer] {
        &self.0
    }

    /// Those that steps made.
    pub fn built(&self) -> Vec<StepLayer> {
        let built = |layer: &StackLayer| match layer {
            StackLayer::Built(layer) => Some(*layer),
            StackLayer::Base { .. } => None,
        };
        self.0.iter().filter_map(built).collect()
    }

    /// A short mark for each layer, from the bottom; different layers have different ones.
    pub fn marks(&self) -> Vec<String> {
        const LENGTH: usize = 16;
        let mark = |layer: &StackLayer| Blake3::of(layer.identity().as_bytes()).to_string()[..LENGTH].to_owned();
        self.0.iter().map(mark).collect()
    }

    /// One identity for the whole stack: what later RUNs depend on.
    pub fn identity(&self) -> String {
        let mut facts = Facts::default();
        for layer in self.0.iter() {
            facts.push("layer", layer.identity());
        }
        facts.hash("stack").to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::Times;
    use crate::tar::entry::{Entry, Kind, LayerPath, Meta};
    use rbuild_cache::digest::{LayerId, Sha256, TreeId};

    #[test]
    fn identity_follows_meaning_not_stored_bytes() {
        let layer = |id: &[u8], tree: &[u8]| StepLayer {
            id: LayerId(Blake3::of(id)),
            tree: TreeId(Blake3::of(tree)),
            diff_id: DiffId(Sha256::of(id)),
            times: None,
        };
        let one = Stack::default().with(layer(b"1", b"t"));
        let other_times = Stack::default().with(layer(b"2", b"t"));
        let other_files = Stack::default().with(layer(b"1", b"u"));
        assert_eq!(one.identity(), other_times.identity());
        assert_ne!(one.identity(), other_files.identity());
        assert_ne!(one.identity(), Stack::default().identity());
        let at = |mtime| {
            let meta = Meta { mtime, ..Meta::default() };
            let kind = Kind::File { size: 0, content: Blake3::of(b"") };
            let entry = Entry { path: LayerPath::clean("f"), kind, meta };
            StepLayer { times: Times::of([&entry].into_iter(), |_| true), ..layer(b"1", b"t") }
        };
        let chosen = |mtime| Stack::default().with(at(mtime)).identity();
        assert_eq!(chosen(1), chosen(1));
        assert_ne!(chosen(1), chosen(2));
        assert_ne!(chosen(1), one.identity());
    }
}
