//! What COPY, ADD and bind mounts take from contexts: whoever has the contexts looks for it before anything runs.
//!
//! Knows no tree; what is not there is told at the word that names it.

use crate::diagnostic::Diagnostic;
use crate::plan::graph::{Copy, CopySource, From, StepId};
use crate::plan::site::Site;
use crate::source::Lines;

/// What one instruction takes from contexts.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// As a COPY of it; sources that are no paths of a context are among its sources, too.
    pub copy: Copy,
    /// The shown name of the step.
    pub name: String,
    pub(crate) step: StepId,
    /// The places of the sources in the Dockerfile, as far as they are paths.
    sites: Vec<Site>,
    site: Site,
}

impl Wanted {
    /// What an instruction at `site` takes, if it takes anything from a context.
    pub(crate) fn new(copy: Copy, name: String, step: StepId, site: Site, sites: Vec<Site>) -> Option<Self> {
        let of_context = |source: &CopySource| matches!(source, CopySource::Path { from: From::Context(_), .. });
        copy.sources.iter().any(of_context).then_some(Self { copy, name, step, sites, site })
    }

    /// The same of a step that has another name now.
    pub(crate) fn of_step(self, step: StepId) -> Self {
        Self { step, ..self }
    }

    /// The instruction's lines.
    pub fn lines(&self) -> Lines {
        self.site.lines
    }

    /// A fault of one of its sources.
    pub fn fault(&self, source_index: usize, text: String) -> Diagnostic {
        self.sites.get(source_index).unwrap_or(&self.site).fault("missing-source", text)
    }
}
