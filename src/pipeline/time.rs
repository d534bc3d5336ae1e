//! When the source of the stage that `SOURCE_DATE_EPOCH` names last changed.
//!
//! What was fetched for that is there when the stage's ADD wants it.

use rbuild_cache::Store;

use super::{BuildError, World};
use crate::cancel::Cancelled;
use crate::context::TarContext;
use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::Dockerfile;
use crate::event::{Outcome, Vertex};
use crate::fetch::git::{GitError, redacted};
use crate::fetch::{FetchError, Fetched, Fetcher};
use crate::plan::graph::GitSource;
use crate::plan::{SourceTime, TimeRequest, TimeSource};
use crate::transfer::TransferError;

/// Why there is no answer.
enum NoTime {
    Cancelled(Cancelled),
    Refused { message: String, help: Option<String> },
    World { doing: &'static str, reason: String },
}

/// Asks the server or the repository.
pub(super) fn find(world: &World<'_>, file: &Dockerfile, request: &TimeRequest) -> Result<SourceTime, BuildError> {
    let vertex = world.progress.vertex(request.vertex.clone(), &[]);
    vertex.start();
    let found = match &request.source {
        TimeSource::Http { url, checksum } => of_download(world, url, checksum.as_deref(), &vertex),
        TimeSource::Git(source) => of_commit(world, source),
    };
    vertex.finish(match &found {
        Ok(_) => Outcome::Done,
        Err(NoTime::Cancelled(_)) => Outcome::Canceled,
        Err(NoTime::Refused { message: text, .. } | NoTime::World { reason: text, .. }) => Outcome::Error(text.clone()),
    });
    found.map(|seconds| SourceTime { seconds }).map_err(|why| match why {
        NoTime::Cancelled(cancelled) => cancelled.into(),
        NoTime::World { doing, reason } => BuildError::World { doing: doing.to_owned(), reason },
        NoTime::Refused { message, help } => {
            let fault = Diagnostic::meaning("source-date-epoch", message, &file.source, request.span, request.lines);
            BuildError::Dockerfile(vec![match help {
                Some(help) => fault.with_help(help),
                None => fault,
            }])
        }
    })
}

/// What the server says, or the newest file if it is an archive.
fn of_download(world: &World<'_>, url: &str, checksum: Option<&str>, vertex: &Vertex) -> Result<Option<i64>, NoTime> {
    let shown = redacted(url);
    let progress = |received: u64, total: u64| vertex.status(&shown, received, total, false);
    let fetched = world.fetcher.get(url, checksum, &progress, world.cancel).map_err(|error| match error {
        FetchError::Cancelled(cancelled) => NoTime::Cancelled(cancelled),
        other => NoTime::Refused { message: other.to_string(), help: None },
    })?;
    match fetched.last_modified {
        Some(seconds) => Ok(Some(seconds)),
        None => newest_in(world.fetcher, world.store, &fetched)
            .map_err(|reason| NoTime::World { doing: "read what was downloaded", reason }),
    }
}

/// The time of the newest file of an archive that was downloaded; what is none has no time.
pub fn newest_in(fetcher: &Fetcher, store: &Store, fetched: &Fetched) -> Result<Option<i64>, String> {
    let input = fetcher.open(fetched).map_err(|e| e.to_string())?;
    let scratch = store.scratch().map_err(|e| e.to_string())?;
    // Directories that it does not list have no part in the answer.
    match TarContext::read(Box::new(input), scratch, 0) {
        Ok(tree) => Ok(tree.newest()),
        Err(error @ TransferError::Spool(_)) => Err(error.to_string()),
        Err(_) => Ok(None),
    }
}

fn of_commit(world: &World<'_>, source: &GitSource) -> Result<Option<i64>, NoTime> {
    let failed = |error: GitError| match error {
        GitError::Cancelled(cancelled) => NoTime::Cancelled(cancelled),
        other => NoTime::Refused { message: other.to_string(), help: other.help() },
    };
    let git = world.fetcher.git();
    let commit = git.resolve(source, world.cancel).map_err(failed)?;
    // Only the commit matters: neither what is in a directory of it nor what its submodules hold.
    let bare = GitSource { subdir: None, keep_git_dir: false, submodules: false, ..source.clone() };
    let checkout = git.checkout(&bare, &commit, world.cancel).map_err(failed)?;
    Ok(Some(checkout.committed))
}
