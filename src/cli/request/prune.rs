//! `rbuild prune` as decided.

use super::{Filter, RequestError};
use crate::cli::args_store::PruneArgs;
use crate::cli::fields;

/// What may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneRequest {
    /// Also what may still be of use.
    pub all: bool,
    /// Do not ask.
    pub force: bool,
    /// Only these.
    pub filter: Filter,
    /// Only until the store takes no more than this.
    pub max_used: Option<u64>,
    /// Only until the disk has this much free.
    pub min_free: Option<u64>,
    /// Never below this.
    pub keep: u64,
    /// Only say what would go.
    pub dry_run: bool,
}

impl PruneRequest {
    /// Reads the values of `args`.
    pub fn new(args: &PruneArgs) -> Result<Self, RequestError> {
        let size = |name: &str, text: &Option<String>| {
            let size = text.as_deref().map(fields::storage).transpose();
            size.map_err(|error| RequestError::Usage(format!("{name}: {error}")))
        };
        Ok(Self {
            all: args.all,
            force: args.force,
            filter: Filter::new(&args.filter)?,
            max_used: size("--max-used-space", &args.max_used_space)?,
            min_free: size("--min-free-space", &args.min_free_space)?,
            keep: size("--reserved-space", &args.reserved_space)?.unwrap_or_default(),
            dry_run: args.dry_run,
        })
    }
}
