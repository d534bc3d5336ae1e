//! Who the program runs as and what it may do: limits, user, capabilities, system calls.

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set,
    set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{During, Fault, Ground};
use crate::exec::seccomp::{self, Policy};
use crate::exec::{Process, kernel};

/// Docker's default set: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
/// sys_chroot, mknod, audit_write, setfcap.
pub(super) const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

/// Sets resource limits, and that the kernel prefers nobody when memory runs out.
pub(super) fn limits(process: &Process) -> Result<(), Fault> {
    for (name, soft, hard) in &process.ulimits {
        let resource = resource(name).ok_or_else(|| unknown(name))?;
        let value = |number: i64| u64::try_from(number).ok();
        let limit = Rlimit { current: value(*soft), maximum: value(*hard) };
        setrlimit(resource, limit).during(format!("ulimit {name}={soft}:{hard}"))?;
    }
    usual_oom_score();
    Ok(())
}

/// Undoes what rbuild may have been given against being killed when memory runs out.
pub(super) fn usual_oom_score() {
    if std::fs::read_to_string("/proc/self/oom_score_adj").is_ok_and(|score| score.trim() != "0") {
        // Less than our own needs CAP_SYS_RESOURCE on the host; without it, ours stays.
        let _refused = std::fs::write("/proc/self/oom_score_adj", "0");
    }
}

/// Refuses limits that there are none of.
pub(super) fn known_limits(process: &Process) -> Result<(), Fault> {
    match process.ulimits.iter().find(|(name, ..)| resource(name).is_none()) {
        Some((name, ..)) => Err(unknown(name)),
        None => Ok(()),
    }
}

fn unknown(name: &str) -> Fault {
    Fault::Setup(format!("ulimit {name}: unknown resource"))
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// Becomes the user. The filter goes first: without no_new_privs, which would break sudo, only `CAP_SYS_ADMIN` may set one.
pub(super) fn assume(process: &Process, ground: Ground, policy: Policy) -> Result<(), Fault> {
    let have = capabilities(None).during("read capabilities")?.permitted;
    let keep = if process.insecure { have } else { have & CapabilitySet::from_bits_retain(DEFAULT_CAPABILITIES) };
    if !process.insecure && have.contains(CapabilitySet::SETPCAP) {
        kernel::bound_capabilities(DEFAULT_CAPABILITIES).during("drop capabilities")?;
    }
    // Kernels before 4.3 have none.
    let _unknown = clear_ambient_capability_set();
    let administrator = have.contains(CapabilitySet::SYS_ADMIN);
    if ground.one_id && !administrator {
        // Only this lets others set a filter, and without ours no package can be installed. There is nobody else to become.
        rustix::thread::set_no_new_privs(true).during("give up new privileges")?;
    }
    if administrator || ground.one_id {
        seccomp::install(&seccomp::program(policy)).during("install the system call filter")?;
    }
    if !ground.one_id {
        set_keep_capabilities(true).during("keep capabilities")?;
        become_user(process)?;
    }
    // Of a user other than root exec takes them all away again (programs with file capabilities get theirs from the bounding
    // set). Until then they are runc's: it finds and starts programs that only their owner may execute.
    let inheritable = if process.insecure { keep } else { CapabilitySet::empty() };
    set_capabilities(None, CapabilitySets { effective: keep, permitted: keep, inheritable })
        .during("set capabilities")?;
    if process.insecure {
        // Whoever the user is.
        for capability in keep {
            configure_capability_in_ambient_set(capability, true).during("set ambient capabilities")?;
        }
    }
    Ok(())
}

fn become_user(process: &Process) -> Result<(), Fault> {
    use rustix::thread::{Gid, Uid};
    let groups: Vec<Gid> = process.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    match set_thread_groups(&groups) {
        // Not ours to change, nor needed: a plain user's chroot-less life, or a namespace without that right.
        Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
        result => result.during(format!("set groups {:?}", process.groups))?,
    }
    set_thread_res_gid(gid, gid, gid).during(format!("set group {}", process.gid))?;
    set_thread_res_uid(uid, uid, uid).during(format!("set user {}", process.uid))
}
