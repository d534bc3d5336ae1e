//! /etc/hosts and /etc/resolv.conf of a step.

use crate::exec::Process;

/// Public servers used where the host only has ones that a step without the host's network cannot reach.
const PUBLIC_SERVERS: &str = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n";

/// Where systemd-resolved keeps the servers behind its local one.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The files with their content.
pub(crate) fn files(process: &Process) -> [(&'static str, String); 2] {
    let read =
        |path: &str| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let host = read("/etc/resolv.conf");
    // With the host's network every server the host reaches is reached, so the file stays as it is.
    let servers = if process.isolate_network { reachable(&host, || read(BEHIND_RESOLVED)) } else { host };
    [("/etc/hosts", hosts(&process.hostname, &process.add_hosts)), ("/etc/resolv.conf", servers)]
}

fn hosts(hostname: &str, more: &[(String, String)]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in more {
        text = format!("{text}{address}\t{name}\n");
    }
    text
}

/// Leaves out servers on this machine.
fn reachable(text: &str, behind_resolved: impl FnOnce() -> String) -> String {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default().to_owned())
    };
    let local = |address: &str| address.starts_with("127.") || address == "::1";
    let without_local = |text: &str| -> String {
        let kept = text.split_inclusive('\n').filter(|line| server(line).is_none_or(|address| !local(&address)));
        kept.collect()
    };
    let mut kept = without_local(text);
    if text.lines().filter_map(server).eq(["127.0.0.53"]) {
        kept = without_local(&behind_resolved());
    }
    if !kept.lines().any(|line| server(line).is_some()) {
        if !kept.is_empty() && !kept.ends_with('\n') {
            kept.push('\n');
        }
        kept.push_str(PUBLIC_SERVERS);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lists_the_step_and_the_users_lines() {
        let more = [("db".to_owned(), "10.0.0.7".to_owned())];
        let expected =
            "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n";
        assert_eq!(hosts("buildkitsandbox", &more), expected);
    }

    #[test]
    fn servers_on_this_machine_are_replaced() {
        let check =
            |text: &str, expected: &str| assert_eq!(reachable(text, || "nameserver 10.1.1.1\n".into()), expected);
        check("nameserver 10.0.0.1\nnameserver 127.0.0.1\nsearch a\n", "nameserver 10.0.0.1\nsearch a\n");
        check("nameserver 127.0.0.53\noptions edns0\n", "nameserver 10.1.1.1\n");
        check("search a\nnameserver ::1\n", "search a\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        check("", PUBLIC_SERVERS);
    }
}
