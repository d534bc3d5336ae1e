//! Assembling an image: the plan's draft, the layers that were made and their times become the bytes of the config.
//!
//! The same draft, layers and times give the same bytes. Reads no clock: times are arguments. Knows no blob and no manifest.

use jiff::Timestamp;
use rbuild_cache::digest::DiffId;

use crate::oci::config::{History, ImageConfig, RootFs};
use crate::plan::graph::{ImageDraft, StepId};

/// What BuildKit writes beside every history entry it makes.
const COMMENT: &str = "buildkit.dockerfile.v0";
/// The same for a layer that no instruction stands for.
const EXPORTER_COMMENT: &str = "buildkit.exporter.image.v0";

/// A draft and its layers do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The config cannot be written as JSON.
    #[error("cannot encode image config")]
    Encode(#[from] serde_json::Error),
    /// Neither the base nor the request names one.
    #[error("invalid image config for export: missing {0}")]
    Missing(&'static str),
}

/// What building the steps of a plan has come to.
#[derive(Clone, Copy)]
pub struct Built<'a> {
    /// The layers of the image from the bottom, base included.
    pub diff_ids: &'a [DiffId],
    /// When the layer of a step was made; a cached one keeps its time.
    pub created: &'a dyn Fn(StepId) -> Option<Timestamp>,
    /// `SOURCE_DATE_EPOCH` in seconds; the plan's.
    pub epoch: Option<i64>,
}

impl std::fmt::Debug for Built<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Built").field("diff_ids", &self.diff_ids).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// The bytes of the config blob; their SHA-256 is the image ID.
pub fn assemble(draft: &ImageDraft, built: &Built<'_>) -> Result<Vec<u8>, AssembleError> {
    Ok(serde_json::to_vec(&config(draft, built)?)?)
}

/// The config that [`assemble`] encodes.
pub fn config(draft: &ImageDraft, built: &Built<'_>) -> Result<ImageConfig, AssembleError> {
    let mut config = draft.config.clone();
    if config.os.is_empty() {
        return Err(AssembleError::Missing("os"));
    }
    if config.architecture.is_empty() {
        return Err(AssembleError::Missing("architecture"));
    }
    drop_empty(&mut config);
    config.rootfs = RootFs { diff_ids: built.diff_ids.to_vec(), ..RootFs::default() };
    config.history = history(draft, built);
    config.created = config.history.iter().rev().find_map(|entry| entry.created.clone());
    Ok(config)
}

/// Empty lists and maps are left out, as Go leaves them out: `CMD []` reads back as no CMD.
fn drop_empty(config: &mut ImageConfig) {
    fn list(field: &mut Option<Vec<String>>) {
        field.take_if(|list| list.is_empty());
    }
    let config = &mut config.config;
    list(&mut config.env);
    list(&mut config.entrypoint);
    list(&mut config.cmd);
    list(&mut config.on_build);
    list(&mut config.shell);
    config.labels.take_if(|map| map.is_empty());
    config.exposed_ports.take_if(|map| map.is_empty());
    config.volumes.take_if(|map| map.is_empty());
}

/// The base's entries as they are, then ours. Every layer gets an entry, no entry claims a layer that is not there.
fn history(draft: &ImageDraft, built: &Built<'_>) -> Vec<History> {
    let epoch = built.epoch.and_then(|seconds| Timestamp::from_second(seconds).ok());
    let text = |time: Timestamp| time.to_string();
    let mut entries = base_entries(draft, epoch.map(text));
    let known = entries.iter().filter(|entry| !entry.empty_layer).count();
    let own = draft.history.iter().filter(|entry| entry.step.is_some()).count();
    // A root that came from a named context has a layer and no instruction.
    for _ in known + own..built.diff_ids.len() {
        entries.push(History { created: epoch.map(text), comment: EXPORTER_COMMENT.to_owned(), ..History::default() });
    }
    for entry in &draft.history {
        let created = epoch.or_else(|| entry.step.and_then(|step| (built.created)(step)));
        entries.push(History {
            created: created.map(text),
            created_by: entry.created_by.clone(),
            comment: COMMENT.to_owned(),
            author: String::new(),
            empty_layer: entry.step.is_none(),
        });
    }
    fill_times(&mut entries);
    entries
}

/// The base's history, made to name exactly the base's layers: what is too much is marked empty, what is missing is added.
fn base_entries(draft: &ImageDraft, created: Option<String>) -> Vec<History> {
    let mut entries = draft.base_history.clone();
    let mut layers = 0;
    for entry in &mut entries {
        entry.empty_layer |= layers >= draft.base_layers;
        layers += usize::from(!entry.empty_layer);
    }
    for _ in layers..draft.base_layers {
        let comment = EXPORTER_COMMENT.to_owned();
        entries.push(History { created: created.clone(), comment, ..History::default() });
    }
    entries
}

/// Entries without a time take that of the one before them. The first of them, and those that follow it at once, take the next
/// time there is: a new layer's, not that of the base below. Without one they take the base's last time.
fn fill_times(entries: &mut [History]) {
    let gap = entries.iter().position(|entry| entry.created.is_none()).unwrap_or(entries.len());
    let (below, rest) = entries.split_at_mut(gap);
    let next = rest.iter().find_map(|entry| entry.created.clone());
    let mut time = next.or_else(|| below.last().and_then(|entry| entry.created.clone()));
    for entry in rest {
        match &entry.created {
            Some(created) => time = Some(created.clone()),
            None => entry.created.clone_from(&time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::graph::HistoryDraft;
    use rbuild_cache::digest::Sha256;

    fn diff(n: u8) -> DiffId {
        DiffId(Sha256([n; 32]))
    }

    fn draft(base: &[(&str, bool)], base_layers: usize, own: &[Option<u32>]) -> ImageDraft {
        let mut config = ImageConfig { os: "linux".into(), architecture: "amd64".into(), ..ImageConfig::default() };
        config.config.cmd = Some(Vec::new());
        ImageDraft {
            config,
            base_history: base
                .iter()
                .map(|(created, empty_layer)| History {
                    created: Some((*created).to_owned()),
                    empty_layer: *empty_layer,
                    ..History::default()
                })
                .collect(),
            base_layers,
            history: own
                .iter()
                .enumerate()
                .map(|(i, step)| HistoryDraft {
                    created_by: format!("entry {i}"),
                    step: step.map(|n| StepId::new(n as usize)),
                })
                .collect(),
        }
    }

    fn check(draft: &ImageDraft, layers: u8, epoch: Option<i64>, expected: &str) {
        let diff_ids: Vec<DiffId> = (0..layers).map(diff).collect();
        let created = |step: StepId| Timestamp::from_second(step.index() as i64 * 60).ok();
        let config = config(draft, &Built { diff_ids: &diff_ids, created: &created, epoch }).expect("complete");
        let line = |entry: &History| {
            let mark = if entry.empty_layer { '-' } else { 'L' };
            format!("{mark} {} {}", entry.created.as_deref().unwrap_or("?"), entry.created_by)
        };
        let mut text: Vec<String> = config.history.iter().map(|entry| line(entry).trim_end().to_owned()).collect();
        text.push(format!("= {}", config.created.as_deref().unwrap_or("?")));
        assert_eq!(text.join("\n"), expected);
        assert_eq!(config.rootfs.diff_ids, diff_ids);
        assert_eq!(config.config.cmd, None);
    }

    #[test]
    fn times_come_from_layers() {
        // features.md D174
        check(
            &draft(&[("2020-01-01T00:00:00Z", false)], 1, &[None, Some(1), None, Some(2), None]),
            3,
            None,
            "L 2020-01-01T00:00:00Z\n- 1970-01-01T00:01:00Z entry 0\nL 1970-01-01T00:01:00Z entry 1\n\
             - 1970-01-01T00:01:00Z entry 2\nL 1970-01-01T00:02:00Z entry 3\n- 1970-01-01T00:02:00Z entry 4\n\
             = 1970-01-01T00:02:00Z",
        );
    }

    #[test]
    fn without_new_layers_the_bases_time_is_taken() {
        check(
            &draft(&[("2020-01-01T00:00:00Z", false), ("2020-01-02T00:00:00.5Z", true)], 1, &[None]),
            1,
            None,
            "L 2020-01-01T00:00:00Z\n- 2020-01-02T00:00:00.5Z\n- 2020-01-02T00:00:00.5Z entry 0\n\
             = 2020-01-02T00:00:00.5Z",
        );
        check(&draft(&[], 0, &[None]), 0, None, "- ? entry 0\n= ?");
    }

    #[test]
    fn entries_of_the_base_without_a_time_get_one_that_is_known() {
        let mut draft =
            draft(&[("2020-01-01T00:00:00Z", true), ("", false), ("2020-01-03T00:00:00Z", true)], 1, &[None]);
        draft.base_history[1].created = None;
        check(
            &draft,
            1,
            None,
            "- 2020-01-01T00:00:00Z\nL 2020-01-03T00:00:00Z\n- 2020-01-03T00:00:00Z\n- 2020-01-03T00:00:00Z entry 0\n\
             = 2020-01-03T00:00:00Z",
        );
    }

    #[test]
    fn the_epoch_is_the_time_of_all_that_is_new() {
        // features.md R01
        check(
            &draft(&[("2020-01-01T00:00:00Z", false)], 1, &[None, Some(1)]),
            2,
            Some(100),
            "L 2020-01-01T00:00:00Z\n- 1970-01-01T00:01:40Z entry 0\nL 1970-01-01T00:01:40Z entry 1\n\
             = 1970-01-01T00:01:40Z",
        );
    }

    #[test]
    fn histories_and_layers_are_made_to_agree() {
        check(
            &draft(&[("2020-01-01T00:00:00Z", false), ("2020-01-02T00:00:00Z", false)], 1, &[Some(1)]),
            2,
            None,
            "L 2020-01-01T00:00:00Z\n- 2020-01-02T00:00:00Z\nL 1970-01-01T00:01:00Z entry 0\n= 1970-01-01T00:01:00Z",
        );
        check(
            &draft(&[], 2, &[Some(1)]),
            3,
            None,
            "L 1970-01-01T00:01:00Z\nL 1970-01-01T00:01:00Z\nL 1970-01-01T00:01:00Z entry 0\n= 1970-01-01T00:01:00Z",
        );
        check(
            &draft(&[], 0, &[Some(1)]),
            2,
            None,
            "L 1970-01-01T00:01:00Z\nL 1970-01-01T00:01:00Z entry 0\n= 1970-01-01T00:01:00Z",
        );
    }
}
