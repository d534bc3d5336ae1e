//! The store from outside: what it takes, how it is emptied, and that it stays below its ceiling.

use std::path::Path;

use crate::as_root_and_rootless;
use crate::rig::{Rig, Who, succeed};
use crate::traces;

as_root_and_rootless! {
    usage_and_prune
    the_ceiling_holds
    cache_mounts_are_listed_and_removed
}

fn bytes(dir: &Path) -> u64 {
    let text = succeed(std::process::Command::new("du").args(["-s", "--block-size=1"]).arg(dir));
    text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

fn usage_and_prune(who: Who) {
    let rig = Rig::new(who);
    let text = "FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=8 2>/dev/null\n";
    rig.build(&["-t", "kept:1", &rig.dockerfile(text)]);
    rig.build(&[&rig.dockerfile(&text.replace("/big", "/loose"))]);
    let full = bytes(&rig.store());
    assert!(full > 16 << 20, "{full}");
    let usage = rig.ok(&["du", "--format=json"]).stdout;
    let sizes =
        usage.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["Bytes"].as_u64());
    let told: u64 = sizes.map(|size| size.expect("a number")).sum();
    assert!(told.abs_diff(full) < 1 << 20, "du of the store is du of the directory: {told} {full}\n{usage}");
    assert!(usage.contains("\"structure\""), "{usage}");
    let trees = rig.ok(&["du", "--verbose", "--filter", "type=tree"]).stdout;
    assert!(trees.contains("tree") && !trees.contains("record") && !trees.contains("structure"), "{trees}");
    let said = rig.rbuild(&["prune", "--force", "--filter", "parent=x"]).stderr;
    assert!(said.contains("filter \"parent\" is not supported"), "{said}");
    let said = rig.ok(&["prune", "--all", "--force", "--dry-run", "--filter", "type=blob"]).stdout;
    assert!(!said.contains("record"), "{said}");

    let said = rig.ok(&["prune", "--all", "--force", "--dry-run"]);
    assert!(bytes(&rig.store()) >= full - (64 << 10), "--dry-run removes nothing: {}", said.stdout);
    rig.ok(&["prune", "--all", "--force"]);
    let left = bytes(&rig.store());
    assert!(left < full - (7 << 20), "what no name needs is gone: {full} -> {left}");
    assert!(left > 8 << 20, "what a name needs is not: {left}");
    assert_eq!(rig.ok(&["run", "--rm", "kept:1", "stat", "-c", "%s", "/big"]).stdout, "8388608\n");

    rig.ok(&["rmi", "kept:1", "busybox:latest"]);
    rig.ok(&["prune", "--all", "--force"]);
    let empty = bytes(&rig.store());
    assert!(empty < 1 << 20, "{empty}");
    traces::none(&rig);
}

fn the_ceiling_holds(who: Who) {
    const CEILING: u64 = 40 << 20;
    let rig = Rig::new(who);
    for round in 0..8 {
        let text = format!(
            "FROM busybox\nRUN echo {round}; dd if=/dev/urandom of=/big bs=1M count=12 2>/dev/null\nCOPY a /a\n"
        );
        let context = rig.context("context", &[("Dockerfile", &text), ("a", &round.to_string())]);
        rig.build(&["--store-max=40MiB", "-t", "latest-only:1", &context]);
        let now = bytes(&rig.store());
        assert!(now <= CEILING, "round {round}: {now} bytes");
    }
    assert_eq!(rig.ok(&["run", "--rm", "latest-only:1", "cat", "/a"]).stdout, "7");
    let log = rig.fails(&[
        "--store-max=40MiB",
        "--progress=plain",
        &rig.dockerfile("FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=60 2>/dev/null\n"),
    ]);
    let last = log.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("ERROR: failed to build: ") && last.contains("40"), "{log}");
    let now = bytes(&rig.store());
    assert!(now <= CEILING, "{now} bytes");
    traces::none(&rig);
}

fn cache_mounts_are_listed_and_removed(who: Who) {
    let rig = Rig::new(who);
    let text = "FROM busybox\nRUN --mount=type=cache,id=mine,target=/c echo x >>/c/lines; wc -l </c/lines >/n\n";
    rig.build(&[&rig.dockerfile(text)]);
    let list = rig.ok(&["cache", "ls"]).stdout;
    assert!(list.contains("mine"), "{list}");
    rig.ok(&["cache", "rm", "--all"]);
    assert!(!rig.ok(&["cache", "ls"]).stdout.contains("mine"));
    rig.build(&["--no-cache", "-t", "n:1", &rig.dockerfile(text)]);
    assert_eq!(rig.ok(&["run", "--rm", "n:1", "cat", "/n"]).stdout, "1\n", "it started empty");
}
