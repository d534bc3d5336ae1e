//! A step whose container an OCI runtime makes (`--oci-runtime`).
//!
//! This process has the step's namespaces already; it makes what only it can make (the root, sources of mounts, files of the
//! step), writes config.json, runs the runtime, and tells how that ended. The runtime with all its state is inside: its
//! directories are on the step's own tmpfs, its processes in the step's PID namespace. So a container needs no deleting,
//! whatever ends rbuild. It is given no control group; the step's, if there is one, holds runtime and container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::bundle::{Bundle, Verb};
use super::config::{Container, Entry, config};
use super::extra::{self, Appearance, Setting};
use super::mounts::{self, Depth, INERT, NO_DEVICES, READ_ONLY, Target, fresh};
use super::staging::Staging;
use super::walk::{Missing, Rooted};
use super::{During, Fault, Ground, Handles, Report, Runtime, Spec, identity, kernel, names, standard, tell};
use crate::exec::Process;
use crate::exec::wire;

/// Runs the step to its end, and ends.
pub(super) fn run(spec: &Spec, runtime: &Runtime, handles: &Handles) -> Result<std::convert::Infallible, Fault> {
    let Spec { root, process, ground, terminal, .. } = spec;
    if !ground.namespaces || !ground.mounts {
        let text = "an OCI runtime needs namespaces and mounts, and this machine does not let us have them";
        return Err(Fault::Setup(text.to_owned()));
    }
    super::settle(process, *ground)?;
    identity::known_limits(process)?;
    let nodes = if process.insecure { MountAttrFlags::empty() } else { NO_DEVICES };
    let (target, staging) = super::mount_root(root, *ground, nodes)?;
    let path = resolved(&staging.path(&target.name))?;
    let mut plan = Plan::new(Rooted::new(target.enter().during("open the root")?), staging, *ground);
    plan.standard(process)?;
    plan.extra(process, Setting { ground: *ground, attributes: nodes, socket: &handles.socket })?;
    let cwd = plan.working_directory(process)?;
    super::report_ready(&mut plan.root, &handles.socket)?;
    let console = if *terminal { Some(Console::listen(&mut plan.staging)?) } else { None };
    let config = config(&Container {
        process,
        root: path,
        cwd,
        mounts: &plan.entries,
        one_id: ground.one_id,
        terminal: console.is_some(),
        may: rustix::thread::capabilities(None).during("read capabilities")?.permitted,
    });
    let bundle = Bundle::write(&mut plan.staging, &config)?;
    plan.cover_the_machine()?;
    let nothing = super::nothing()?;
    let call = |verb: &Verb<'_>, quiet: bool| -> Result<(), Fault> {
        let code = in_child(|| {
            if quiet {
                silence()?;
            } else {
                super::streams(process, handles, None, &nothing)?;
            }
            bundle.become_runtime(runtime, verb)
        })?;
        match (code, bundle.fault(runtime, process)) {
            (0, _) => Ok(()),
            (_, Some(fault)) => Err(fault),
            (code, None) => Err(Fault::Setup(format!("{}: exit code {code}", runtime.program.display()))),
        }
    };
    call(&Verb::Create { console: console.as_ref().map(|console| console.path.as_path()) }, console.is_some())?;
    if let Some(console) = console {
        console.pass_on(&handles.socket)?;
    }
    let (pid, container) = bundle.container()?;
    if !process.insecure && !ground.user_namespace {
        keep_devices_dead(pid)?;
    }
    call(&Verb::Start, true)?;
    let code = wait(&container).during("wait for the container")?;
    // Programs of a kind that the machine cannot execute are found out this late.
    match (code, bundle.fault(runtime, process)) {
        (1.., Some(fault @ Fault::NotExecutable(_))) => super::tell_fault(&handles.socket, fault),
        _ => kernel::leave(code),
    }
}

/// Runs what becomes a program in a child; gives its exit code.
fn in_child(become_it: impl FnOnce() -> Result<std::convert::Infallible, Fault>) -> Result<i32, Fault> {
    match kernel::fork_into(0).during("fork")? {
        kernel::Side::Parent(child) => wait(&child.pidfd).during("wait for the runtime"),
        kernel::Side::Child => {
            identity::usual_oom_score();
            rustix::process::umask(Mode::from_raw_mode(0o022));
            kernel::reset_signals();
            kernel::close_from_at_exec(3);
            become_it().map(|never| match never {})
        }
    }
}

/// crun mounts the root anew with no attribute but its own, so that device nodes in it would be alive. Between its making the
/// container and its starting the program they are set again.
fn keep_devices_dead(pid: Pid) -> Result<(), Fault> {
    let namespace =
        openat(CWD, format!("/proc/{}/ns/mnt", pid.as_raw_nonzero()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .during("open the container's mount namespace")?;
    match kernel::fork_into(0).during("fork")? {
        kernel::Side::Parent(child) => match wait(&child.pidfd).during("wait for a child")? {
            0 => Ok(()),
            code => Err(Fault::Setup(format!(
                "forbid devices in the container's root: {}",
                io::Error::from_raw_os_error(code)
            ))),
        },
        kernel::Side::Child => {
            let set = || -> io::Result<()> {
                use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
                let root = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                mounts::set_attributes(&root, NO_DEVICES, false)
            };
            kernel::leave(set().map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0))
        }
    }
}

/// Standard streams that lead nowhere.
fn silence() -> Result<(), Fault> {
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).during("open /dev/null")?;
    (0..3).try_for_each(|number| kernel::become_stream(null.as_fd(), number)).during("set up the standard streams")
}

/// Waits for a child's end; its exit code, 128 + signal when killed by one.
fn wait(pidfd: &OwnedFd) -> io::Result<i32> {
    let status = loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    Ok(status.map_or(0, |status| {
        status.terminating_signal().map_or_else(|| status.exit_status().unwrap_or_default(), |signal| 128 + signal)
    }))
}

/// Where the runtime hands over the near end of the terminal that it makes.
#[derive(Debug)]
struct Console {
    path: PathBuf,
    listener: OwnedFd,
}

impl Console {
    fn listen(staging: &mut Staging) -> Result<Self, Fault> {
        let (listener, name) = staging.listener()?;
        Ok(Self { path: staging.path(&name), listener })
    }

    /// Waits for it and gives it to rbuild.
    fn pass_on(self, socket: &OwnedFd) -> Result<(), Fault> {
        let stream = rustix::net::accept(&self.listener).during("accept the terminal")?;
        let (_name, fds) = wire::receive(&stream).during("receive the terminal")?;
        let Some(far) = fds.into_iter().next() else {
            return Err(Fault::Setup("the runtime made no terminal".to_owned()));
        };
        tell(socket, &Report::Terminal, &[far.as_fd()]).during("hand over the terminal")
    }
}

/// Runtimes take no path with links in it for a root.
fn resolved(path: &Path) -> Result<String, Fault> {
    let path = std::fs::canonicalize(path).during(format!("find {}", path.display()))?;
    Ok(path.to_string_lossy().into_owned())
}

/// What is to be mounted where, in order.
#[derive(Debug)]
struct Plan {
    root: Rooted,
    staging: Staging,
    ground: Ground,
    entries: Vec<Entry>,
}

impl Plan {
    fn new(root: Rooted, staging: Staging, ground: Ground) -> Self {
        Self { root, staging, ground, entries: Vec::new() }
    }

    /// Where an entry for `target` goes: the path without links. What is missing is made here, so that we know of it
    /// afterwards, unless it will be below an earlier entry, where the runtime makes it.
    fn destination(&mut self, what: &str, target: &str, missing: Missing) -> Result<String, Fault> {
        let refused = |error: &io::Error| extra::refused(what, target, error);
        let found = match self.root.real_path(target, Missing::Fail) {
            Ok(found) => format!("/{found}"),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => plain(target),
            // What is in the way there now will not be.
            Err(_) if self.is_covered(&plain(target)) => plain(target),
            Err(error) => return Err(refused(&error)),
        };
        if self.is_covered(&found) {
            return Ok(found);
        }
        // These stay in an image that lacks them.
        let missing = if ["/proc", "/sys", "/dev"].contains(&target) { Missing::SystemDirectory } else { missing };
        let fd = self.root.open(target, missing).map_err(|error| refused(&error))?;
        let directory = extra::is_directory(&fd)?;
        if directory != (missing != Missing::MountFile) {
            return Err(refused(&Errno::NOTDIR.into()));
        }
        match self.root.real_path(target, Missing::Fail).map_err(|error| refused(&error))? {
            root if root.is_empty() => Err(refused(&Errno::BUSY.into())),
            path => Ok(format!("/{path}")),
        }
    }

    /// Whether a path leads into what is going to be mounted.
    fn is_covered(&self, path: &str) -> bool {
        self.entries.iter().any(|entry| Path::new(path).starts_with(&entry.destination))
    }

    /// Lists a new file system.
    fn fresh(
        &mut self,
        target: &str,
        kind: &'static str,
        attributes: MountAttrFlags,
        options: &[String],
    ) -> Result<(), Fault> {
        let destination = self.destination(kind, target, Missing::MountDirectory)?;
        self.entries.push(Entry::fresh(&destination, kind, attributes, options));
        Ok(())
    }

    /// Lists something that is here already.
    fn show(&mut self, what: &str, target: &str, source: &OwnedFd, attributes: MountAttrFlags) -> Result<(), Fault> {
        let missing = if extra::is_directory(source)? { Missing::MountDirectory } else { Missing::MountFile };
        let destination = self.destination(what, target, missing)?;
        let source = self.staging.show(source, attributes, Depth::WithMountsBelow)?;
        self.entries.push(Entry::bind(&destination, source.to_string_lossy().into_owned(), attributes));
        Ok(())
    }

    /// What every step has.
    fn standard(&mut self, process: &Process) -> Result<(), Fault> {
        self.fresh("/proc", "proc", INERT, &[])?;
        self.dev(process)?;
        self.sys(process)?;
        for (path, content) in names::files(process) {
            let file = self.staging.file(content.as_bytes(), 0o644, 0, 0)?;
            self.show("file", path, &file, INERT | READ_ONLY)?;
        }
        Ok(())
    }

    fn dev(&mut self, process: &Process) -> Result<(), Fault> {
        let option = |text: &str| text.to_owned();
        let nodes = if process.insecure { MountAttrFlags::empty() } else { NO_DEVICES };
        let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let attributes = nodes | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
        self.fresh("/dev", "tmpfs", attributes, &[option("mode=755"), option("size=65536k")])?;
        // A runtime makes the usual ones, where they are dead like all that a step can make; and finds these on top. In a user
        // namespace nobody makes any: the runtime binds the host's.
        let devices = standard::devices(process, self.ground);
        for device in devices.iter().filter(|_| !self.ground.user_namespace) {
            if let Some(node) = standard::node(&mut self.staging, device, self.ground) {
                let source = self.staging.show(&node, MountAttrFlags::empty(), Depth::Single)?;
                let source = source.to_string_lossy().into_owned();
                let destination = format!("/dev/{}", device.name);
                self.entries.push(Entry::bind(&destination, source, MountAttrFlags::empty()));
            }
        }
        let mut pts = ["newinstance", "ptmxmode=0666", "mode=0620"].map(option).to_vec();
        if !self.ground.one_id {
            pts.push(format!("gid={}", standard::TTY_GROUP));
        }
        self.fresh("/dev/pts", "devpts", quiet, &pts)?;
        let size = format!("size={}", process.shm_size.unwrap_or(standard::DEFAULT_SHM));
        let shared = if process.shm_size.is_some() { nodes | MountAttrFlags::MOUNT_ATTR_NOSUID } else { INERT };
        self.fresh("/dev/shm", "tmpfs", shared, &[option("mode=1777"), size])?;
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if known.lines().any(|line| line.trim_end().ends_with("\tmqueue")) {
            self.fresh("/dev/mqueue", "mqueue", INERT, &[])?;
        }
        Ok(())
    }

    fn sys(&mut self, process: &Process) -> Result<(), Fault> {
        let attributes = if process.insecure { INERT } else { INERT | READ_ONLY };
        // A new one shows the devices of the network namespace, so the kernel wants us to own that.
        let bound = self.ground.user_namespace && !process.isolate_network;
        if bound {
            let host = open("/sys")?;
            self.show("bind", "/sys", &host, attributes)?;
        } else {
            self.fresh("/sys", "sysfs", attributes, &[])?;
        }
        let cgroup = if standard::is_unified() {
            let target = self.staging.directory()?;
            fresh("cgroup2", &[], attributes, &target).is_ok().then(|| target.enter()).transpose()
        } else {
            Ok(None)
        };
        let cgroup = match cgroup.during("open cgroup2")? {
            Some(cgroup) => cgroup,
            // The host's would tell what else runs there.
            None if bound => self.staging.empty()?,
            None => return Ok(()),
        };
        self.show("cgroup", "/sys/fs/cgroup", &cgroup, attributes)
    }

    /// The step's own.
    fn extra(&mut self, process: &Process, setting: Setting<'_>) -> Result<(), Fault> {
        for (number, mount) in (0..).zip(&process.mounts) {
            let what = extra::name(&mount.kind);
            match extra::appearance(&mut self.root, &mut self.staging, number, mount, setting)? {
                Appearance::Tree { source, attributes } => self.show(what, &mount.target, &source, attributes)?,
                Appearance::Tmpfs { options, attributes } => {
                    // Mounted here: runc gives one of its own the mode of what it covers.
                    let options: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
                    let target = self.staging.directory()?;
                    fresh("tmpfs", &options, attributes, &target).during(format!("mount tmpfs on {}", mount.target))?;
                    let source = target.enter().during("open tmpfs")?;
                    self.show(what, &mount.target, &source, attributes)?;
                }
            }
        }
        if self.ground.one_id
            && let Some((target, file)) = extra::apt_settings(&mut self.root, &mut self.staging)?
        {
            self.show("file", &target, &file, READ_ONLY)?;
        }
        Ok(())
    }

    fn working_directory(&mut self, process: &Process) -> Result<String, Fault> {
        let real = self.root.real_path(&process.cwd, Missing::Fail);
        let found = real.map_or_else(|_| plain(&process.cwd), |path| format!("/{path}"));
        if self.is_covered(&found) {
            return Ok(found);
        }
        super::working_directory(&mut self.root, process)?;
        let real = self.root.real_path(&process.cwd, Missing::Fail);
        Ok(format!("/{}", real.during(format!("find {}", process.cwd))?))
    }

    /// What the runtime itself sees: processes by the numbers they have here, and control groups that it cannot change. crun
    /// knows a single hierarchy or several but not the mixture that some machines have, so it sees one.
    fn cover_the_machine(&mut self) -> Result<(), Fault> {
        let place = |path: &str| Target::at(Path::new(path)).during(format!("open {path}"));
        fresh("proc", &[], INERT, &place("/proc")?).during("mount /proc (an OCI runtime needs one of its own)")?;
        let groups = place("/sys/fs/cgroup")?;
        fresh("cgroup2", &[], INERT | READ_ONLY, &groups)
            .or_else(|_| {
                let empty = self.staging.empty().map_err(|_| io::Error::other("no empty directory"))?;
                mounts::bind(empty, &groups, INERT | READ_ONLY, Depth::Single)
            })
            .during("hide /sys/fs/cgroup")
    }
}

fn open(path: &str) -> Result<OwnedFd, Fault> {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during(format!("open {path}"))
}

/// A path without `.`, `..` and doubled slashes, as far as text tells.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
