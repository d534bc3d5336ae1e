//! `--ssh`: agents made of key files, and the user's own agent seen through a filter. A Debian root's perl speaks the protocol
//! inside the step, ssh-add and ssh-agent of the machine outside it.

use std::process::{Child, Command, Stdio};

use crate::as_root_and_rootless;
use crate::debian::debian_root;
use crate::rig::{Rig, Who, installed, succeed};
use crate::traces;

as_root_and_rootless! { keys_and_agents_reach_steps }

/// Asks for identities, then to remove all of them; prints how many there are and the kind of the second answer.
const ASK: &str = "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0) or die; connect(S, sockaddr_un($ENV{SSH_AUTH_SOCK})) or die $!; \
                   sub ask { syswrite S, pack('N/a', $_[0]); my $r = ''; \
                   while (length $r < 4 || length $r < 4 + unpack 'N', $r) { sysread S, $r, 9999, length $r or die } substr $r, 4 } \
                   my $l = ask(chr 11); my $n = unpack 'xN', $l; print \"keys=$n remove=\", ord ask(chr 19), \"\\n\";";

/// A program that ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn keygen(rig: &Rig, name: &str, kind: &str, passphrase: &str) -> String {
    succeed(rig.other("ssh-keygen").args(["-q", "-t", kind, "-N", passphrase, "-C", name, "-f", &rig.arg(name)]));
    rig.arg(name)
}

fn keys_and_agents_reach_steps(who: Who) {
    if !installed("ssh-keygen") || !installed("ssh-agent") {
        return;
    }
    let Some(root) = debian_root() else { return };
    let rig = Rig::empty(who);
    // perl and what it is linked with is all that is needed of it.
    let files =
        ["usr/bin/perl", "usr/lib/x86_64-linux-gnu", "usr/lib64", "bin", "lib", "lib64", "usr/bin/dash", "usr/bin/sh"];
    let tar = rig.path("perl.tar");
    succeed(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).args(files));
    crate::rig::set_mode(&tar, 0o644);
    rig.ok(&["import", &rig.arg("perl.tar"), "perl:1"]);
    let ask = ASK.replace('\'', "'\\''");
    let text = format!(
        "FROM perl:1\nRUN --mount=type=ssh perl -e '{ask}'\nUSER 33\nRUN --mount=type=ssh,id=other,uid=33,required=true perl -e '{ask}'\n"
    );
    let context = rig.context("context", &[("Dockerfile", &text)]);
    let (one, two) = (keygen(&rig, "one", "ed25519", ""), keygen(&rig, "two", "rsa", ""));

    let agent = rig.arg("agent.sock");
    let mut started = rig.other("ssh-agent");
    let running = Running(
        started.args(["-D", "-a", &agent]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts"),
    );
    while !rig.path("agent.sock").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    succeed(rig.other("ssh-add").env("SSH_AUTH_SOCK", &agent).args(["-q", &one]));
    let args = ["--no-cache", "--ssh", &format!("default={one},{two}"), "--ssh", &format!("other={agent}"), &context];
    let log = rig.build(&args);
    assert!(log.contains("keys=2 remove=5"), "{log}");
    assert!(log.contains("keys=1 remove=5"), "the agent's keys are not for steps to remove: {log}");
    let listed = succeed(rig.other("ssh-add").env("SSH_AUTH_SOCK", &agent).arg("-l"));
    assert!(listed.contains("ED25519"), "{listed}");
    let args =
        ["--no-cache", "--ssh", &format!("default={one}"), "--ssh", &format!("other={agent},raw=true"), &context];
    let log = rig.build(&args);
    assert!(log.contains("keys=1 remove=6"), "raw is the socket itself: {log}");
    drop(running);

    let locked = keygen(&rig, "locked", "ed25519", "secret");
    let said = rig.fails(&["build", "--ssh", &format!("default={locked}"), &context]);
    assert!(said.contains("this private key is passphrase protected; give it to an agent with \"ssh-add "), "{said}");
    let said = rig.fails(&["build", "--progress=plain", "--no-cache", "--ssh", &format!("default={one}"), &context]);
    assert!(said.contains("unset ssh forward key other"), "{said}");
    traces::none(&rig);
}
