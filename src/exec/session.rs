//! Entering: what rbuild forks and which namespaces it takes on before its first thread.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::probe::Found;
use super::step::Ground;
use super::{ExecError, Executor, Sandbox};
use crate::snapshot::{Copied, Overlay, OverlayXattrs, Snapshots};

/// What the command is going to need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnterOptions {
    /// It may run steps.
    pub need_sandbox: bool,
    /// It reads or writes trees, which in a user namespace belong to ids that exist only there.
    pub need_userns: bool,
}

/// rbuild could not become what it must be.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The fork before all threads failed.
    #[error("fork the sandbox launcher: {0}")]
    Launcher(#[source] io::Error),
}

/// Whether files in trees have the owners that the layers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// They have.
    Exact,
    /// All belong to the one user there is; the layers' indexes know better.
    Flattened,
}

/// Who we are and what that lets us do, with a way up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode {
    privilege: Privilege,
    found: Option<Found>,
}

/// By which right steps get their namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// The machine's root.
    Root,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.privilege {
            Privilege::Root => f.write_str("root"),
        }
    }
}

/// What [`enter`] made; lives as long as `main`.
#[derive(Debug)]
pub struct Session {
    /// Runs steps.
    pub executor: Arc<dyn Executor>,
    /// Whether trees keep owners.
    pub ownership: Ownership,
    /// Names the mapping of ids that trees are made with.
    pub trees_suffix: String,
    /// How trees are marked for overlay.
    pub overlay_xattrs: OverlayXattrs,
    sandbox: Option<Arc<Sandbox>>,
    privilege: Privilege,
    found: OnceLock<Found>,
}

/// Does what must be done while this process has one thread. Call it first in `main`.
pub fn enter(options: &EnterOptions) -> Result<Session, EnterError> {
    let ground = Ground { user_namespace: false, one_id: false, namespaces: true };
    let sandbox =
        if options.need_sandbox { Some(Arc::new(Sandbox::start(ground).map_err(EnterError::Launcher)?)) } else { None };
    let executor: Arc<dyn Executor> = match &sandbox {
        Some(sandbox) => Arc::<Sandbox>::clone(sandbox),
        None => Arc::new(NoSandbox),
    };
    Ok(Session {
        executor,
        ownership: Ownership::Exact,
        trees_suffix: "host".to_owned(),
        overlay_xattrs: OverlayXattrs::Trusted,
        sandbox,
        privilege: Privilege::Root,
        found: OnceLock::new(),
    })
}

impl Session {
    /// How steps get their roots; `scratch` is an existing directory on the store's file system, where it is tried once.
    pub fn snapshots(&self, scratch: &Path) -> Arc<dyn Snapshots> {
        if self.found(scratch).overlay.is_none() {
            Arc::new(Overlay { xattrs: self.overlay_xattrs })
        } else {
            Arc::new(Copied { xattrs: self.overlay_xattrs })
        }
    }

    /// The mode, in words; tries as [`Session::snapshots`] does.
    pub fn mode(&self, scratch: &Path) -> Mode {
        Mode { privilege: self.privilege.clone(), found: self.sandbox.as_ref().map(|_| self.found(scratch).clone()) }
    }

    fn found(&self, scratch: &Path) -> &Found {
        self.found.get_or_init(|| {
            let failed =
                |error: &dyn fmt::Display| Found { overlay: Some(error.to_string()), proc: Some(error.to_string()) };
            let Some(sandbox) = &self.sandbox else { return failed(&"no sandbox") };
            let attempt = || -> io::Result<Found> {
                let directory = tempfile::Builder::new().prefix("probe-").tempdir_in(scratch)?;
                for name in ["lower", "lower/old", "upper", "work"] {
                    fs_err::create_dir(directory.path().join(name))?;
                }
                sandbox.probe(directory.path())
            };
            attempt().unwrap_or_else(|error| failed(&error))
        })
    }
}

/// In the place of an executor for commands that run nothing.
#[derive(Debug)]
struct NoSandbox;

impl Executor for NoSandbox {
    fn run(
        &self,
        _root: &super::Root,
        _process: &super::Process,
        _output: super::Output<'_>,
        _cancel: &crate::cancel::Cancel,
    ) -> Result<super::Exit, ExecError> {
        Err(ExecError::Launcher(io::Error::other("this command was not to run any step")))
    }
}
