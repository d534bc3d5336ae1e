//! Entering: what rbuild forks and which namespaces it takes on before its first thread.
//!
//! A ladder, each rung tried and not inferred: root's own namespaces; a user namespace with many ids; one with a single
//! id; none. What can be mounted is tried later, when the first root is needed, because most commands need none.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::thread::CapabilitySet;

use super::groups::{Groups, Limits};
use super::host::Host;
use super::oci_runtime::OciRuntime;
use super::probe::Found;
use super::step::Ground;
use super::userns::{self, Ids};
use super::{ExecError, Executor, Sandbox};
use crate::snapshot::{Copied, Overlay, OverlayXattrs, Snapshots};

/// What the command is going to need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnterOptions {
    /// It may run steps.
    pub need_sandbox: bool,
    /// It reads or writes trees, which in a user namespace belong to ids that exist only there.
    pub need_userns: bool,
    /// What each step may use.
    pub limits: Limits,
    /// An OCI runtime that is to make the steps' containers, instead of us.
    pub runtime: Option<PathBuf>,
}

/// rbuild could not become what it must be.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A fork before the first thread failed.
    #[error("fork: {0}")]
    Fork(#[source] io::Error),
    /// The user namespace was made, but we could not become anybody in it.
    #[error("user namespace: {0}")]
    UserNamespace(#[source] io::Error),
    /// Steps were to be limited, and cannot be.
    #[error("{0}")]
    Limits(String),
    /// A runtime was to make the containers, and could make none.
    #[error("an OCI runtime needs namespaces: {0}")]
    Runtime(String),
}

/// Whether files in trees have the owners that the layers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// They have.
    Exact,
    /// All belong to the one user there is; the layers' indexes know better.
    Flattened,
}

/// By which right steps get their namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Privilege {
    /// As root, with a capability for them.
    Root,
    /// As root of a user namespace.
    UserNamespace(Ids),
    /// They get none, and why.
    Refused(String),
    /// None was needed.
    NotAsked,
}

/// Who we are and what that lets us do, with a way up; one line when printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode {
    privilege: Privilege,
    ownership: Ownership,
    found: Found,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What.
    pub what: &'static str,
    /// What came of it, and what that means for builds.
    pub outcome: String,
    /// What would give more; `None` if there is nothing to gain.
    pub unlock: Option<&'static str>,
}

/// How to get user namespaces.
const NAMESPACES: &str = "allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns, \
                          kernel.unprivileged_userns_clone; in a container also its seccomp profile)";
/// How to get mounts.
const MOUNTS: &str = "allow mount(2) (CAP_SYS_ADMIN, and a seccomp or AppArmor profile that lets it through)";
/// How to get a root directory of a step's own.
const CHROOT: &str = "give CAP_SYS_CHROOT";
/// How to have at least paths translated.
const PTRACE: &str =
    "let processes trace their children (sysctl kernel.yama.ptrace_scope at most 1; the container's seccomp profile)";
/// How to get overlays.
const OVERLAYS: &str =
    "keep the store (--root) on a local file system such as ext4, xfs or btrfs, with Linux 5.11 or later";

impl Mode {
    /// Whether builds do without something that a better place would give.
    pub fn is_limited(&self) -> bool {
        self.trials().iter().any(|trial| trial.unlock.is_some())
    }

    /// Whether a tracer has the paths of steps mean what they would mean in their root.
    fn is_translated(&self) -> bool {
        let wanted = self.found.chroot.is_some() || self.ownership == Ownership::Flattened;
        matches!(self.privilege, Privilege::Refused(_)) && wanted && self.found.translation.is_none()
    }

    /// All that was tried, rung by rung, with its meaning and a way up.
    pub fn trials(&self) -> Vec<Trial> {
        let trial = |what, refused: Option<&str>, good: &str, bad: &str, unlock: &'static str| match refused {
            None => Trial { what, outcome: good.to_owned(), unlock: None },
            Some(why) => Trial { what, outcome: format!("{bad} ({why})"), unlock: Some(unlock) },
        };
        let namespaces = match &self.privilege {
            Privilege::Root => trial("namespaces", None, "root's own: every step has some", "", ""),
            Privilege::UserNamespace(_) => {
                trial("namespaces", None, "in a user namespace: every step has some", "", "")
            }
            Privilege::Refused(why) => {
                let bad = if self.is_translated() {
                    "none: steps are not isolated from the network, nor from a program that means to get out"
                } else {
                    "none: steps run one at a time and are not isolated from rbuild's processes and the network"
                };
                trial("namespaces", Some(why), "", bad, NAMESPACES)
            }
            Privilege::NotAsked => trial("namespaces", None, "not tried", "", ""),
        };
        let owners = match (&self.privilege, self.ownership) {
            (_, Ownership::Exact) => trial("owners", None, "as in the image", "", ""),
            (Privilege::UserNamespace(Ids::One(why)), Ownership::Flattened) => {
                let bad = "RUN sees one user and group only; COPY --chown is recorded and exported";
                trial(
                    "owners",
                    Some(why),
                    "",
                    bad,
                    "have subordinate ids in /etc/subuid and /etc/subgid, and newuidmap (package uidmap)",
                )
            }
            (
                Privilege::UserNamespace(Ids::Many) | Privilege::Root | Privilege::Refused(_) | Privilege::NotAsked,
                Ownership::Flattened,
            ) => {
                let bad = "RUN sees one user and group only; COPY --chown is recorded and exported";
                let unlock =
                    "give CAP_CHOWN, CAP_FOWNER, CAP_DAC_OVERRIDE, CAP_SETUID and CAP_SETGID, or allow user namespaces";
                trial("owners", Some("no right to give files away"), "", bad, unlock)
            }
        };
        let found = &self.found;
        let no_mounts = if self.is_translated() {
            "none: mounts of RUN are shown by name"
        } else {
            "none: mounts of RUN are moved or copied to their place and taken away after it"
        };
        let no_proc = match &self.privilege {
            Privilege::Refused(_) if self.is_translated() => "steps see the outer /proc, of it their own processes",
            Privilege::Refused(_) => "none: steps have no /proc",
            Privilege::Root | Privilege::UserNamespace(_) | Privilege::NotAsked => "steps see the outer /proc",
        };
        let mut trials = vec![
            namespaces,
            owners,
            trial("mounts", found.mounts.as_deref(), "allowed", no_mounts, MOUNTS),
            trial("overlay", found.overlay.as_deref(), "allowed", "none: each RUN gets a copy of its root", OVERLAYS),
            trial(
                "proc",
                found.proc.as_deref(),
                "steps have their own",
                no_proc,
                if matches!(self.privilege, Privilege::Refused(_)) { MOUNTS } else { "run with an unmasked /proc" },
            ),
        ];
        if matches!(self.privilege, Privilege::Refused(_)) {
            let chroot = trial("chroot", found.chroot.as_deref(), "allowed: RUN works", "refused", CHROOT);
            let used = "allowed: RUN works, its paths are translated (no wall: RUN can reach what this container can)";
            let ptrace = if found.chroot.is_none() && !self.is_translated() {
                trial("ptrace", None, "not needed", "", "")
            } else {
                let bad = "refused: no RUN, only the other instructions";
                trial("ptrace", found.translation.as_deref(), used, bad, PTRACE)
            };
            trials.extend([chroot, ptrace]);
        }
        trials
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trees = if self.found.overlay.is_none() { "overlay" } else { "copied trees" };
        if let (Some(why), Privilege::Root | Privilege::UserNamespace(_)) = (&self.found.mounts, &self.privilege) {
            return write!(f, "no mounts, copied trees, one RUN at a time: {why}; {MOUNTS}");
        }
        match &self.privilege {
            Privilege::Root => write!(f, "root, {trees}")?,
            Privilege::UserNamespace(Ids::Many) => write!(f, "rootless, {trees}")?,
            Privilege::UserNamespace(Ids::One(why)) => {
                write!(f, "rootless with a single id, {trees}; owners are recorded but not seen by RUN: {why}")?;
            }
            Privilege::Refused(why) => {
                let (how, chroot) = match (&self.found.chroot, &self.found.translation) {
                    (None, _) if self.is_translated() => ("RUN by translated paths", String::new()),
                    (None, _) => ("one RUN at a time in a changed root", String::new()),
                    (Some(_), None) => ("RUN by translated paths", format!("{CHROOT}, or ")),
                    (Some(_), Some(why)) => {
                        ("no RUN, only the other instructions", format!("{CHROOT}, or {PTRACE} ({why}), or "))
                    }
                };
                let owners = match self.ownership {
                    Ownership::Exact => "",
                    Ownership::Flattened => ", owners are recorded but not seen by RUN",
                };
                return write!(f, "no namespaces, copied trees, {how}{owners}: {why}; {chroot}{NAMESPACES}");
            }
            Privilege::NotAsked => return f.write_str("no sandbox"),
        }
        if let Some(why) = &self.found.overlay {
            write!(f, "; no overlay ({why}): {OVERLAYS}")?;
        }
        if let Some(why) = &self.found.proc {
            write!(f, "; steps see the outer /proc ({why}): an unmasked /proc gives them their own")?;
        }
        Ok(())
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
    /// Whether a file's mode can keep us from it: we are no root, or one without the right to pass over modes.
    pub bound_by_modes: bool,
    sandbox: Option<Arc<Sandbox>>,
    host: Arc<Host>,
    privilege: Privilege,
    found: OnceLock<Found>,
    snapshots: OnceLock<Made>,
}

/// What makes roots, and the directory that it needs for as long.
#[derive(Debug)]
struct Made {
    snapshots: Arc<dyn Snapshots>,
    _skeleton: Option<tempfile::TempDir>,
}

/// Does what must be done while this process has one thread. Call it first in `main`.
pub fn enter(options: &EnterOptions) -> Result<Session, EnterError> {
    let root = rustix::process::geteuid().is_root();
    if !options.need_sandbox && (root && may(CapabilitySet::SYS_ADMIN) || !options.need_userns) {
        return Ok(session(None, Host::here(), Privilege::NotAsked, options));
    }
    if root {
        let ground = Ground { namespaces: true, mounts: true, ..here(false) };
        match Sandbox::start(ground) {
            Ok(sandbox) => {
                return Ok(session(Some(limited(sandbox, options)?), Host::here(), Privilege::Root, options));
            }
            // A container's root, without the capability.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            Err(error) => return Err(EnterError::Fork(error)),
        }
    }
    let host = Host::start().map_err(EnterError::Fork)?;
    let before = (rustix::process::geteuid(), rustix::process::getegid());
    let ids = match userns::enter(&host) {
        Ok(ids) => Ok(ids),
        // Still where we were: nothing is lost but the namespace.
        Err(error) if (rustix::process::geteuid(), rustix::process::getegid()) == before => {
            Err(format!("unshare: {error}"))
        }
        Err(error) => return Err(EnterError::UserNamespace(error)),
    };
    if !options.need_sandbox {
        let privilege = ids.map_or_else(Privilege::Refused, Privilege::UserNamespace);
        return Ok(session(None, host, privilege, options));
    }
    let entered = ids.is_ok();
    let why = match ids {
        Ok(ids) => match Sandbox::start(Ground { namespaces: true, mounts: true, ..here(true) }) {
            Ok(sandbox) => {
                let privilege = Privilege::UserNamespace(ids);
                return Ok(session(Some(limited(sandbox, options)?), host, privilege, options));
            }
            // Made, but without any right in it: some security modules do that.
            Err(error) => format!("make a PID namespace: {error}"),
        },
        Err(why) => why,
    };
    if options.runtime.is_some() {
        return Err(EnterError::Runtime(why));
    }
    let sandbox = Sandbox::start(here(entered)).map_err(EnterError::Fork)?;
    Ok(session(Some(limited(sandbox, options)?), host, Privilege::Refused(why), options))
}

/// The sandbox with what its steps are limited by. Comes after all other forks: none of them may keep the janitor waiting.
fn limited(sandbox: Sandbox, options: &EnterOptions) -> Result<Sandbox, EnterError> {
    if options.limits.is_empty() {
        return Ok(sandbox);
    }
    let groups = Groups::new(options.limits.clone()).map_err(EnterError::Limits)?;
    Ok(sandbox.in_groups(groups))
}

/// The ground as our own maps and rights tell it. Whether we entered a user namespace must be told: one that has all ids as
/// they are looks like none.
fn here(entered: bool) -> Ground {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ranges = userns::ranges(&map);
    Ground {
        user_namespace: entered || ranges != ALL_IDS,
        one_id: matches!(ranges.as_slice(), [(_, _, 1)]) || !may(OWNERS),
        namespaces: false,
        mounts: false,
        translated: false,
    }
}

/// What it takes to give files to others, change those and become others. A plain user has none of it, and neither has the
/// root of a container that drops everything.
const OWNERS: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

/// The map of a machine without user namespaces.
const ALL_IDS: [(u32, u32, u32); 1] = [(0, 0, u32::MAX)];

/// How trees are marked: the one kind of attribute only the machine's administrator may set.
pub(super) fn marks(ground: Ground) -> OverlayXattrs {
    let administrator = !ground.user_namespace && may(CapabilitySet::SYS_ADMIN);
    if administrator { OverlayXattrs::Trusted } else { OverlayXattrs::User }
}

fn may(rights: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|have| have.effective.contains(rights))
}

/// A folder name for trees made with these rights and this map of ids: they are of no use under others.
fn suffix(ground: Ground, map: &str) -> String {
    let ranges = userns::ranges(map);
    if !ground.user_namespace {
        return match (ground.one_id, marks(ground)) {
            (true, _) => format!("user-{}", rustix::process::geteuid().as_raw()),
            (false, OverlayXattrs::Trusted) => "host".to_owned(),
            (false, OverlayXattrs::User) => "contained".to_owned(),
        };
    }
    ranges.iter().map(|(inside, outside, count)| format!("{inside}-{outside}-{count}")).collect::<Vec<_>>().join("_")
}

fn session(sandbox: Option<Sandbox>, host: Host, privilege: Privilege, options: &EnterOptions) -> Session {
    let ground = here(matches!(privilege, Privilege::UserNamespace(_)));
    let (sandbox, host) = (sandbox.map(Arc::new), Arc::new(host));
    let executor: Arc<dyn Executor> = match (&sandbox, &options.runtime) {
        (Some(sandbox), Some(program)) => {
            Arc::new(OciRuntime::new(Arc::clone(sandbox), Arc::clone(&host), program.clone()))
        }
        (Some(sandbox), None) => Arc::<Sandbox>::clone(sandbox),
        (None, _) => Arc::new(NoSandbox),
    };
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    Session {
        executor,
        ownership: if ground.one_id { Ownership::Flattened } else { Ownership::Exact },
        trees_suffix: suffix(ground, &map),
        overlay_xattrs: marks(ground),
        bound_by_modes: !may(CapabilitySet::DAC_OVERRIDE),
        sandbox,
        host,
        privilege,
        found: OnceLock::new(),
        snapshots: OnceLock::new(),
    }
}

impl Session {
    /// Starts programs of the host, as the user that started rbuild.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// How steps get their roots; `scratch` is an existing directory on the store's file system, where it is tried once.
    pub fn snapshots(&self, scratch: &Path) -> Arc<dyn Snapshots> {
        let made = self.snapshots.get_or_init(|| {
            let copied = || Made { snapshots: Arc::new(Copied { xattrs: self.overlay_xattrs }), _skeleton: None };
            if self.found(scratch).overlay.is_some() {
                return copied();
            }
            let overlay = || -> io::Result<Made> {
                let skeleton = tempfile::Builder::new().prefix("skeleton-").tempdir_in(scratch)?;
                let snapshots = Arc::new(Overlay::new(self.overlay_xattrs, skeleton.path().to_owned())?);
                Ok(Made { snapshots, _skeleton: Some(skeleton) })
            };
            // Whatever is wrong with the directory will be said when the first root is made in it.
            overlay().unwrap_or_else(|_| copied())
        });
        Arc::clone(&made.snapshots)
    }

    /// The mode, in words; tries as [`Session::snapshots`] does.
    pub fn mode(&self, scratch: &Path) -> Mode {
        Mode { privilege: self.privilege.clone(), ownership: self.ownership, found: self.found(scratch).clone() }
    }

    fn found(&self, scratch: &Path) -> &Found {
        self.found.get_or_init(|| {
            let failed = |error: &dyn fmt::Display| {
                let why = Some(error.to_string());
                Found {
                    overlay: why.clone(),
                    proc: why.clone(),
                    mounts: why.clone(),
                    translation: why.clone(),
                    chroot: why,
                }
            };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(privilege: Privilege, overlay: Option<&str>) -> String {
        let found = Found { overlay: overlay.map(str::to_owned), ..Found::default() };
        Mode { privilege, ownership: Ownership::Exact, found }.to_string()
    }

    #[test]
    fn the_mode_is_one_line_and_says_what_would_help() {
        assert_eq!(mode(Privilege::Root, None), "root, overlay");
        assert_eq!(mode(Privilege::UserNamespace(Ids::Many), None), "rootless, overlay");
        let one = mode(
            Privilege::UserNamespace(Ids::One("newuidmap is not installed (package uidmap or shadow-utils)".into())),
            None,
        );
        assert_eq!(
            one,
            "rootless with a single id, overlay; owners are recorded but not seen by RUN: \
             newuidmap is not installed (package uidmap or shadow-utils)"
        );
        assert!(mode(Privilege::Root, Some("EINVAL")).starts_with("root, copied trees; no overlay (EINVAL): "));
        let none = mode(Privilege::Refused("unshare: EPERM".to_owned()), Some("EPERM"));
        assert!(none.starts_with("no namespaces, copied trees, one RUN at a time in a changed root: unshare: EPERM; "));
    }

    #[test]
    fn every_rung_that_is_missing_has_a_way_up() {
        let why = |text: &str| Some(text.to_owned());
        let found =
            Found { overlay: why("a"), proc: why("b"), mounts: why("c"), translation: why("f"), chroot: why("d") };
        let privilege = Privilege::Refused("e".to_owned());
        let mode = Mode { privilege, ownership: Ownership::Flattened, found };
        let trials = mode.trials();
        let names: Vec<_> = trials.iter().map(|trial| trial.what).collect();
        assert_eq!(names, ["namespaces", "owners", "mounts", "overlay", "proc", "chroot", "ptrace"]);
        assert!(trials.iter().all(|trial| trial.unlock.is_some_and(|text| !text.is_empty())), "{trials:?}");
        assert!(mode.to_string().contains("no RUN, only the other instructions"), "{mode}");
        let best = Mode { privilege: Privilege::Root, ownership: Ownership::Exact, found: Found::default() };
        assert!(best.trials().iter().all(|trial| trial.unlock.is_none()), "{:?}", best.trials());
    }

    #[test]
    fn trees_of_different_maps_have_different_folders() {
        let inside = Ground { user_namespace: true, one_id: false, namespaces: true, mounts: true, translated: false };
        assert_eq!(suffix(inside, "0 1000 1\n1 100000 65536\n"), "0-1000-1_1-100000-65536");
        let all = "         0          0 4294967295\n";
        assert_eq!(suffix(inside, all), "0-0-4294967295", "looks like the machine's own, but is not");
        let outside = suffix(Ground { user_namespace: false, ..inside }, all);
        assert!(["host", "contained"].contains(&outside.as_str()), "{outside}");
        assert!(suffix(Ground { user_namespace: false, one_id: true, ..inside }, all).starts_with("user-"));
    }
}
