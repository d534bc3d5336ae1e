//! Entering a user namespace: all the ids the machine's administrator grants, else our own one.

use std::io;

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::host::Host;
use super::kernel::{self, Side};
use super::wire::wire_struct;

/// How ids inside a new namespace map to ids outside: (first inside, first outside, how many).
type Ranges = Vec<(u32, u32, u32)>;

/// Both maps and who may write them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    uids: Ranges,
    gids: Ranges,
    /// Written by a process with the capability to, else by newuidmap and newgidmap.
    direct: bool,
}

wire_struct!(Maps { uids, gids, direct });

/// What came of entering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// Many.
    Many,
    /// One, and why no more.
    One(String),
}

/// Moves this single-threaded process into a new user namespace, as its root.
pub(crate) fn enter(host: &Host) -> io::Result<Ids> {
    if rustix::process::geteuid().is_root() {
        try_in_child(host)?;
    }
    enter_now(host)
}

/// A root that lacks CAP_SETFCAP may make a namespace and then not be anybody in it, and there is no way back: a child finds
/// out.
fn try_in_child(host: &Host) -> io::Result<()> {
    use std::os::fd::AsFd as _;
    match kernel::fork_into(0)? {
        Side::Child => kernel::leave(enter_now(host).map_or_else(|e| e.raw_os_error().unwrap_or(libc::EIO), |_| 0)),
        Side::Parent(child) => {
            let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)?;
            match status.and_then(|status| status.exit_status()) {
                Some(0) => Ok(()),
                code => Err(io::Error::from_raw_os_error(code.unwrap_or(libc::EIO))),
            }
        }
    }
}

fn enter_now(host: &Host) -> io::Result<Ids> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let maps = if uid == 0 { inherited() } else { granted(uid, gid) };
    kernel::unshare(libc::CLONE_NEWUSER)?;
    let many = match maps {
        Ok(maps) => host.write_maps(rustix::process::getpid().as_raw_nonzero().get(), &maps)?,
        Err(why) => Err(why),
    };
    let Err(why) = many else { return Ok(Ids::Many) };
    // Our own id needs nobody's leave, but then groups may not be dropped: that could give access to what they are denied.
    if !is_written("/proc/self/uid_map") {
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    }
    if !is_written("/proc/self/gid_map") {
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    Ok(Ids::One(why))
}

fn is_written(path: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| !text.trim().is_empty())
}

/// Root in a container: all ids it has itself, as they are.
fn inherited() -> Result<Maps, String> {
    let read = |path: &str| -> Result<Ranges, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        Ok(ranges(&text).into_iter().map(|(inside, _, count)| (inside, inside, count)).collect())
    };
    Ok(Maps { uids: read("/proc/self/uid_map")?, gids: read("/proc/self/gid_map")?, direct: true })
}

/// A user: itself as root, and then the ids granted to it.
fn granted(uid: u32, gid: u32) -> Result<Maps, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let name = user_name(&read("/etc/passwd"), uid);
    let map = |path: &str, own: u32| -> Result<Ranges, String> {
        let subordinate = subordinate(&read(path), &name, uid);
        if subordinate.is_empty() {
            return Err(format!("{path} grants {name} no ids; add a line such as {name}:100000:65536"));
        }
        Ok(stacked(own, &subordinate))
    };
    Ok(Maps { uids: map("/etc/subuid", uid)?, gids: map("/etc/subgid", gid)?, direct: false })
}

fn user_name(passwd: &str, uid: u32) -> String {
    let uid = uid.to_string();
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&uid)).then(|| name.to_owned())
    });
    found.unwrap_or(uid)
}

/// (first, how many) of each line for this user.
fn subordinate(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    let line = |line: &str| -> Option<(u32, u32)> {
        let mut fields = line.trim().split(':');
        let user = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        ((user == name || user == uid) && count > 0).then_some((first, count))
    };
    text.lines().filter_map(line).collect()
}

/// Our own id as 0, the others after it without gaps.
fn stacked(own: u32, subordinate: &[(u32, u32)]) -> Ranges {
    let mut next = 1_u32;
    let mut ranges = vec![(0, own, 1)];
    for &(first, count) in subordinate {
        ranges.push((next, first, count));
        next = next.saturating_add(count);
    }
    ranges
}

/// The lines of a map as the kernel shows them.
pub(crate) fn ranges(map: &str) -> Ranges {
    let line = |line: &str| -> Option<(u32, u32, u32)> {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    };
    map.lines().filter_map(line).collect()
}

/// Runs in the host process: writes the maps of the namespace that process `pid` is in.
pub(crate) fn write_maps(pid: i32, maps: &Maps) -> Result<(), String> {
    // Groups first: of the two it is the one whose failure leaves all choices open.
    for (file, program, ranges) in [("gid_map", "newgidmap", &maps.gids), ("uid_map", "newuidmap", &maps.uids)] {
        if maps.direct {
            let lines = ranges.iter().map(|(inside, outside, count)| format!("{inside} {outside} {count}"));
            let text = lines.collect::<Vec<_>>().join("\n");
            std::fs::write(format!("/proc/{pid}/{file}"), text).map_err(|error| format!("write {file}: {error}"))?;
            continue;
        }
        let mut command = std::process::Command::new(program);
        command.arg(pid.to_string());
        command.args(ranges.iter().flat_map(|(inside, outside, count)| [inside, outside, count]).map(u32::to_string));
        match command.stdin(std::process::Stdio::null()).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("{program} is not installed (package uidmap or shadow-utils)"));
            }
            Err(error) => return Err(format!("{program}: {error}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_follow_our_own_without_gaps() {
        let text = "alice:100000:65536\n# a comment\nbob:1:2\n1000:500000:10\nalice:x:1\n";
        let found = subordinate(text, "alice", 1000);
        assert_eq!(found, [(100_000, 65536), (500_000, 10)]);
        assert_eq!(stacked(1000, &found), [(0, 1000, 1), (1, 100_000, 65536), (65537, 500_000, 10)]);
        assert!(subordinate(text, "carol", 7).is_empty());
    }

    #[test]
    fn users_without_a_name_go_by_number() {
        let passwd = "root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n";
        assert_eq!((user_name(passwd, 1000), user_name(passwd, 7)), ("alice".to_owned(), "7".to_owned()));
    }

    #[test]
    fn maps_are_read_as_the_kernel_shows_them() {
        assert_eq!(
            ranges("         0       1000          1\n         1     100000      65536\n"),
            [(0, 1000, 1), (1, 100_000, 65536)]
        );
        assert_eq!(ranges("         0          0 4294967295\n"), [(0, 0, u32::MAX)]);
    }
}
