//! Mounts whose sources and targets are links, or become links while they are mounted (CVE-2024-23651, -23652, -23653).

use crate::as_root_and_rootless;
use crate::outside::{Outside, files_with};
use crate::rig::{Rig, Who};

as_root_and_rootless! {
    sources_of_cache_mounts
    cache_directories_that_steps_change
    targets_that_are_links
    stubs_replaced_by_links
    racing_cache_sources
    sources_in_stages
}

fn sources_of_cache_mounts(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let dir = outside.path("dir");
    let seeds = format!(
        "FROM busybox AS seed\nRUN mkdir /s && ln -s {dir} /s/abs && ln -s ../../../../../../../../..{dir} /s/up && ln -s /proc/self/root{dir} /s/proc\n"
    );
    for source in ["/s/abs", "/s/up", "/s/proc", "/s/../../../../..", "/proc/self/root", "/s/abs/.."] {
        let text = format!(
            "{seeds}FROM busybox\nRUN --mount=type=cache,from=seed,source={source},target=/c ls -la /c; cat /c/file /c/secret; echo x > /c/file; echo x > /c/new; true\n"
        );
        let out = rig.rbuild(&["build", "--progress=plain", &rig.dockerfile(&text)]);
        outside.safe(&rig, &out);
    }
}

/// A step fills a cache with links; the next one mounts below it and works in it.
fn cache_directories_that_steps_change(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let dir = outside.path("dir");
    let fill = format!(
        "FROM busybox\nRUN --mount=type=cache,target=/c rm -rf /c/*; ln -s {dir} /c/dir; ln -s {} /c/file; ln -s / /c/root; ln -s ../../../../../.. /c/up\n",
        outside.path("secret")
    );
    rig.ok(&["build", "--no-cache", "--progress=plain", &rig.dockerfile(&fill)]);
    for second in ["/c/dir", "/c/dir/sub", "/c/root/tmp/x", "/c/up/tmp/y", "/c/file"] {
        for mount in ["type=cache,id=other", "type=tmpfs", "type=bind,rw", "type=secret,id=s", "type=ssh"] {
            let text = format!(
                "FROM busybox\nRUN --mount=type=cache,target=/c --mount={mount},target={second} echo x > {second}/new; echo x > {second}; ls -la {second}; cat {second}/file; true\n"
            );
            let secret = format!("id=s,src={}", rig.arg("context/Dockerfile"));
            let out = rig.rbuild(&["build", "--progress=plain", "--secret", &secret, &rig.dockerfile(&text)]);
            outside.safe(&rig, &out);
        }
        let text = format!(
            "FROM busybox\nWORKDIR {second}\nRUN --mount=type=cache,target=/c pwd; echo x > new; cat file; true\n"
        );
        let out = rig.rbuild(&["build", "--progress=plain", &rig.dockerfile(&text)]);
        outside.safe(&rig, &out);
    }
}

fn targets_that_are_links(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let (dir, secret) = (outside.path("dir"), outside.path("secret"));
    let links = format!(
        "FROM busybox\nRUN ln -s {dir} /dir; ln -s {secret} /file; ln -s ../../../../../../../..{dir} /up; ln -s /proc/self/root{dir} /proc-link; ln -s {}/none /none; rm -rf /etc/hosts /etc/resolv.conf /etc/hostname; ln -s {secret} /etc/hosts; ln -s ../../../../../..{secret} /etc/resolv.conf; rmdir /dev /proc /sys 2>/dev/null; true\n",
        outside.path("empty")
    );
    for target in [
        "/dir",
        "/dir/new",
        "/file",
        "/up",
        "/up/new",
        "/proc-link",
        "/none",
        "/none/deep",
        "/proc/self/root/x",
        "/proc/self/cwd/x",
        "/dev/fd/3",
        "/sys/x",
        "/proc/1/root/tmp/x",
    ] {
        for mount in ["type=cache", "type=tmpfs", "type=bind,source=Dockerfile", "type=bind,rw", "type=secret,id=s"] {
            let text = format!(
                "{links}RUN --mount={mount},target={target} cat {target} {target}/file; echo x > {target}; echo x > {target}/file; echo x > /etc/hosts; true\n"
            );
            let secret = format!("id=s,src={}", rig.arg("context/Dockerfile"));
            let out = rig.rbuild(&["build", "--progress=plain", "--secret", &secret, &rig.dockerfile(&text)]);
            outside.safe(&rig, &out);
        }
    }
}

/// CVE-2024-23652: what was made to be mounted on is removed after the step, which may have put a link in its place. In the
/// root the target itself is busy, but its parents are not.
fn stubs_replaced_by_links(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let empty = outside.path("empty");
    let parent = outside.path("");
    for (target, act) in [
        ("/made/empty", format!("mv /made /away; ln -s {parent} /made")),
        ("/made/target", format!("mv /made /away; ln -s {parent} /made")),
        ("/a/b/empty", format!("mv /a/b /a/away; ln -s {parent} /a/b")),
        ("/a/b/empty", format!("mv /a /away; mkdir /a; ln -s ../../../../../../..{parent} /a/b")),
        ("/made", format!("mv /made /away; umount /made; rmdir /made; ln -s {empty} /made")),
    ] {
        for mount in ["type=tmpfs", "type=cache", "type=bind", "type=secret,id=s"] {
            let text = format!(
                "FROM busybox\nRUN --mount={mount},target={target} {act}; ls -la / /made; true\nRUN ls -la /\n"
            );
            let secret = format!("id=s,src={}", rig.arg("context/Dockerfile"));
            let out = rig.rbuild(&["build", "--progress=plain", "--secret", &secret, &rig.dockerfile(&text)]);
            outside.safe(&rig, &out);
        }
    }
    // /etc itself.
    let text = format!(
        "FROM scratch\nCOPY --from=busybox /bin /bin\nRUN mv /etc /away; ln -s {parent} /etc; true\nRUN ls -la /\n"
    );
    let out = rig.rbuild(&["build", "--progress=plain", &rig.dockerfile(&text)]);
    outside.safe(&rig, &out);
}

/// CVE-2024-23651: two steps share a cache; one swaps a directory in it for a link while the other one mounts below it.
fn racing_cache_sources(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let dir = outside.path("dir");
    let swap = format!(
        "end=$(( $(date +%s) + 6 )); while [ $(date +%s) -lt $end ]; do for i in 1 2 3 4 5 6 7 8 9; do rm -rf /c/d; mkdir /c/d; mkdir /c/d/e; rm -rf /c/d; ln -s {dir} /c/d; done; done"
    );
    let mut text = format!("FROM busybox AS swap\nRUN --mount=type=cache,target=/c {swap}\n");
    for number in 0..20 {
        text += &format!(
            "FROM busybox AS s{number}\nRUN sleep 0.{number}; cd /; true {number}\nRUN --mount=type=cache,target=/c --mount=type=cache,id=e,target=/c/d/e --mount=type=tmpfs,target=/c/d/t cat /c/d/file; echo x > /c/d/file; echo x > /c/d/e/new; true {number}\n"
        );
    }
    text += "FROM busybox\nCOPY --from=swap /bin/sh /x\n";
    for number in 0..20 {
        text += &format!("COPY --from=s{number} /bin/sh /x\n");
    }
    // Some steps fail, as what they mount on is gone again; what counts is what they do not do.
    for _ in 0..2 {
        let out = rig.rbuild(&["build", "--no-cache", "--jobs=4", "--progress=plain", &rig.dockerfile(&text)]);
        outside.safe(&rig, &out);
    }
}

fn sources_in_stages(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let (dir, secret) = (outside.path("dir"), outside.path("secret"));
    let stage = format!(
        "FROM busybox AS a\nRUN mkdir /s; ln -s {dir} /s/dir; ln -s {secret} /s/file; ln -s ../../../../../../..{dir} /s/up; ln -s /proc/self/root{dir} /s/proc; ln -s / /s/root\n"
    );
    for source in
        ["/s/dir", "/s/file", "/s/up", "/s/proc", &format!("/s/root{dir}"), "/s/dir/../secret", "/proc/1/root", "/dev"]
    {
        for mode in ["", ",rw"] {
            let text = format!(
                "{stage}FROM busybox\nRUN --mount=from=a,source={source},target=/m{mode} cat /m /m/file /m/secret; echo x > /m/file; echo x > /m; true\n"
            );
            let out = rig.rbuild(&["build", "--progress=plain", &rig.dockerfile(&text)]);
            outside.safe(&rig, &out);
        }
    }
    assert_eq!(files_with(&rig.store(), crate::outside::CANARY), Vec::<std::path::PathBuf>::new());
}
