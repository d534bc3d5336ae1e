//! Images for several platforms: a foreign one is built by Debian's emulator, which this test registers and unregisters itself.
//!
//! Registering is for the whole machine, so nothing else here relies on there being none: the advice is tried with a program
//! that no emulator takes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::mirrors_answer;
use crate::image::Image;
use crate::rig::{Rig, Who, can_run, installed, loudly, set_mode, succeed};
use crate::traces;

const BINFMT: &str = "/proc/sys/fs/binfmt_misc";
/// Not the name packages use, so that theirs is never touched.
const NAME: &str = "rbuild-test-aarch64";

/// The kernel knows our name for the emulator as long as this lives.
struct Registered;

impl Registered {
    fn new() -> Self {
        if !Path::new(BINFMT).join("register").exists() {
            succeed(Command::new("mount").args(["-t", "binfmt_misc", "binfmt_misc", BINFMT]));
        }
        let _left_by_a_killed_test = std::fs::write(format!("{BINFMT}/{NAME}"), "-1");
        // An ELF file of 64 bits for machine 183, of either kind.
        let magic = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00";
        let mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
        let line = format!(":{NAME}:M::{magic}:{mask}:/usr/bin/qemu-aarch64-static:F");
        std::fs::write(format!("{BINFMT}/register"), line).expect("registers");
        Self
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let _gone = std::fs::write(format!("{BINFMT}/{NAME}"), "-1");
    }
}

/// Debian's static busybox for arm64, fetched with a package state of its own; kept for the next time.
fn foreign_busybox() -> Option<PathBuf> {
    let dir = crate::debian::cache().join("arm64");
    let busybox = dir.join("root/bin/busybox");
    if !busybox.exists() {
        if !mirrors_answer() {
            return None;
        }
        for name in ["state/lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(name)).expect("mkdir");
        }
        let apt = |words: &[&str]| {
            let mut apt = Command::new("apt-get");
            apt.current_dir(&dir).args(["-qq", "-o", "APT::Architecture=arm64", "-o", "APT::Architectures=arm64"]);
            apt.args(["-o", "APT::Sandbox::User=root", "-o", "Dir::State::status=/dev/null"]);
            apt.arg("-o").arg(format!("Dir::State={}", dir.join("state").display()));
            apt.arg("-o").arg(format!("Dir::Cache={}", dir.join("cache").display()));
            succeed(apt.args(words));
        };
        apt(&["update"]);
        apt(&["download", "busybox-static"]);
        succeed(Command::new("sh").current_dir(&dir).args(["-c", "dpkg-deb -x busybox-static_*_arm64.deb root"]));
    }
    Some(busybox)
}

/// `foreign:1` for arm64, made of a busybox.
fn import(rig: &Rig, busybox: &Path, name: &str) {
    let root = rig.path(&format!("root-{name}"));
    std::fs::create_dir_all(root.join("bin")).expect("mkdir");
    std::fs::copy(busybox, root.join("bin/busybox")).expect("copy");
    for applet in ["sh", "uname", "echo", "cat"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("link");
    }
    succeed(Command::new("chmod").args(["-R", "a+rX"]).arg(&root));
    let text = "FROM --platform=linux/arm64 scratch\nCOPY --from=root . /\nENV PATH=/bin\n";
    let context = rig.context(&format!("context-{name}"), &[("Dockerfile", text)]);
    let root = format!("root={}", root.display());
    rig.build(&["--platform=linux/arm64", "-t", name, "--build-context", &root, &context]);
}

const BOTH: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS tools
ARG BUILDPLATFORM
RUN uname -m > /built-on && cat /proc/sys/kernel/random/uuid > /once

FROM busybox AS base-amd64
FROM foreign:1 AS base-arm64

FROM base-$TARGETARCH
ARG TARGETARCH
COPY --from=tools /built-on /once /
RUN uname -m > /runs-on && echo $TARGETARCH > /arch
";

#[test]
fn two_platforms_one_by_emulation() {
    if !can_run(Who::Root) || !cfg!(target_arch = "x86_64") || !installed("qemu-aarch64-static") {
        return;
    }
    let Some(busybox) = foreign_busybox() else { return loudly("NOT RUN: no busybox for arm64 to be had") };
    let _registered = Registered::new();
    for who in [Who::Root, Who::Multi] {
        let rig = Rig::new(who);
        import(&rig, &busybox, "foreign:1");
        let context = rig.dockerfile(BOTH);
        let layout = rig.arg("layout");
        let log = rig.build(&[
            "--platform=linux/amd64,linux/arm64",
            "-o",
            &format!("type=oci,tar=false,dest={layout}"),
            &context,
        ]);
        let shown = log.lines().filter(|line| line.contains("RUN uname -m > /built-on"));
        let numbers: Vec<_> = shown.filter_map(|line| line.split(' ').next()).collect();
        let ran = numbers.iter().filter(|number| log.contains(&format!("\n{number} DONE "))).count();
        assert_eq!(ran, 1, "a stage of the build platform runs once, and is taken from there by the other:\n{log}");
        assert!(numbers.windows(2).all(|two| two[0] == two[1]), "and it is shown once:\n{log}");
        let index: serde_json::Value = read_index(&rig.path("layout"));
        let manifests = index["manifests"].as_array().expect("an index");
        let of: Vec<_> = manifests.iter().map(|m| m["platform"]["architecture"].as_str().unwrap_or_default()).collect();
        assert_eq!(of, ["amd64", "arm64"]);
        let mut once = Vec::new();
        for (architecture, machine) in [("amd64", "x86_64\n"), ("arm64", "aarch64\n")] {
            let out = rig.arg(&format!("{architecture}.tar"));
            rig.build(&[&format!("--platform=linux/{architecture}"), "-o", &format!("type=oci,dest={out}"), &context]);
            let image = Image::read(Path::new(&out));
            let text = |path: &str| String::from_utf8_lossy(&image.files[path].content).into_owned();
            assert_eq!(image.config["architecture"], architecture);
            assert_eq!((text("/runs-on"), text("/built-on")), (machine.to_owned(), "x86_64\n".to_owned()));
            assert_eq!(text("/arch").trim(), architecture);
            once.push(text("/once"));
        }
        assert_eq!(once[0], once[1], "both have what the one run made");
        traces::none(&rig);
    }
}

/// The index that `index.json` leads to.
fn read_index(layout: &Path) -> serde_json::Value {
    let read = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON")
    };
    let top = read(&layout.join("index.json"));
    let manifests = top["manifests"].as_array().expect("manifests");
    match manifests.as_slice() {
        [one] => read(
            &layout.join("blobs/sha256").join(one["digest"].as_str().expect("digest").trim_start_matches("sha256:")),
        ),
        _ => top,
    }
}

#[test]
fn without_an_emulator_the_command_that_installs_one_is_told() {
    if !can_run(Who::Root) {
        return;
    }
    let rig = Rig::new(Who::Root);
    // A machine number that nobody has an emulator for.
    let mut program = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    program[18..20].copy_from_slice(&0xfff1_u16.to_le_bytes());
    let path = rig.path("strange");
    std::fs::write(&path, program).expect("write");
    set_mode(&path, 0o755);
    import(&rig, &path, "strange:1");
    let context = rig.dockerfile("FROM strange:1\nRUN echo hello\n");
    let said = rig.fails(&["build", "--progress=plain", "--platform=linux/arm64", &context]);
    assert!(said.contains("help: programs for linux/arm64 need an emulator on this machine: "), "{said}");
    assert!(said.contains("exit code: 255"), "{said}");
    if std::fs::read_to_string("/etc/os-release").is_ok_and(|text| text.contains("ID=debian")) {
        assert!(said.contains("sudo apt-get install qemu-user-"), "{said}");
    }
    traces::none(&rig);
}
