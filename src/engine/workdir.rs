//! WORKDIR: a layer with the directories that are missing, maybe none.

use super::StepError;
use super::copy::{refused, tree_of, write};
use super::explain::Listing;
use super::record::{Facts, ROOT, StepLayer};
use super::step::{Job, Work};
use crate::layers;
use crate::plan::graph::Workdir;
use crate::plan::key;
use crate::transfer::{self, Planned};

pub(super) struct WorkdirWork<'a>(pub(super) &'a Workdir);

impl Work for WorkdirWork<'_> {
    type Prepared = Vec<Planned>;

    fn cheap(&self, job: &Job<'_>) -> Result<Option<Facts>, StepError> {
        let mut facts = self.facts(job);
        facts.push(ROOT, job.parent.identity());
        Ok(Some(facts))
    }

    fn exact(&self, job: &Job<'_>) -> Result<(Facts, Vec<Planned>), StepError> {
        let mut facts = self.facts(job);
        let destination = tree_of(job, &job.parent)?;
        let now = self.0.mtime.unwrap_or(job.engine.options.now as i64);
        let copied = transfer::workdir(self.0, destination.as_ref(), now).map_err(refused)?;
        for (path, fact) in &copied.facts.0 {
            facts.push(format!("destination {path}"), fact.to_string());
        }
        Ok((facts, copied.entries))
    }

    fn listings<'p>(&self, _: &'p Vec<Planned>) -> Vec<&'p (String, Listing)> {
        Vec::new()
    }

    fn make(&self, job: &Job<'_>, entries: Vec<Planned>) -> Result<StepLayer, StepError> {
        write(job.engine, entries.into_iter().map(|planned| (planned.entry, layers::Content::None)))
    }
}

impl WorkdirWork<'_> {
    fn facts(&self, job: &Job<'_>) -> Facts {
        let mut facts = Facts::default();
        for (name, value) in key::facts(job.step) {
            facts.push(name, value);
        }
        facts
    }
}
