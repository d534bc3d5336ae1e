//! rbuild inside containers that allow little: a Debian root on an overlay, started by crun, as CI services and pods are.
//!
//! Each place takes something else away. All of `testdata/build` and more must come out right in them; where RUN cannot work,
//! because nothing may be traced either, all other instructions must, and the one line says what to ask the administrator for.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::cases::{case_dirs, check_image, copy_tree, make_archives};
use crate::debian::{DOCKERFILE, HELLO, debian_root, debian_tar, machine, mirrors_answer, proxies};
use crate::image::Image;
use crate::rig::{Output, Rig, Who, binary, busybox_tar, can_run, finish, installed, set_mode, start};

/// What a container may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Docker's rights for root, no namespaces, nothing mounted.
    DockerRoot,
    /// The same on a kernel that does not know openat2 and its contemporaries.
    OldKernel,
    /// What `crun spec` gives root: three harmless capabilities. User namespaces can be made, but nobody can be root in them.
    CrunDefault,
    /// Root without any capability, and no namespaces.
    NoCapabilities,
    /// An ordinary user, and no namespaces.
    User,
    /// The same, and nobody may trace anybody.
    Untraced,
    /// All capabilities, but neither the new interface for mounts nor openat2, and a masked /proc.
    OldMounts,
}

const DOCKER: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
const NEW_MOUNTS: [&str; 7] = ["fsopen", "fsconfig", "fsmount", "fspick", "open_tree", "move_mount", "mount_setattr"];
const NEW_FILES: [&str; 3] = ["openat2", "faccessat2", "close_range"];
const NAMESPACES: [&str; 5] = ["unshare", "setns", "mount", "umount2", "pivot_root"];

impl Place {
    fn capabilities(self) -> Vec<String> {
        match self {
            Self::DockerRoot | Self::OldKernel => DOCKER.map(str::to_owned).to_vec(),
            Self::CrunDefault => ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"].map(str::to_owned).to_vec(),
            Self::NoCapabilities | Self::User | Self::Untraced => Vec::new(),
            Self::OldMounts => {
                let mut all = DOCKER.map(str::to_owned).to_vec();
                all.extend(["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"].map(str::to_owned));
                all
            }
        }
    }

    /// Whether RUN can give files to others.
    fn keeps_owners(self) -> bool {
        matches!(self, Self::DockerRoot | Self::OldKernel | Self::OldMounts)
    }

    fn seccomp(self) -> Value {
        let refuse =
            |names: &[&str], errno: i32| json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno});
        // clone with any CLONE_NEW* bit.
        let clone = |bit: u64| {
            json!({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM,
                   "args": [{"index": 0, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}]})
        };
        let bits = [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
        // Its bits cannot be looked at, so everybody refuses it like this.
        let mut calls = vec![refuse(&["clone3"], ENOSYS)];
        match self {
            Self::CrunDefault => return Value::Null,
            Self::OldMounts => {
                calls.push(refuse(&NEW_MOUNTS, ENOSYS));
                calls.push(refuse(&NEW_FILES, ENOSYS));
            }
            Self::DockerRoot | Self::OldKernel | Self::NoCapabilities | Self::User | Self::Untraced => {
                calls.push(refuse(&NAMESPACES, EPERM));
                calls.push(refuse(&NEW_MOUNTS, if self == Self::OldKernel { ENOSYS } else { EPERM }));
                calls.extend(bits.map(clone));
            }
        }
        if self == Self::OldKernel {
            calls.push(refuse(&NEW_FILES, ENOSYS));
        }
        if self == Self::Untraced {
            calls.push(refuse(&["ptrace"], EPERM));
        }
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls})
    }

    /// The specification of a container with the root `root` that runs a script.
    fn spec(self, root: &Path, rig: &Rig, script: &str) -> Value {
        let uid = if matches!(self, Self::User | Self::Untraced) { 1000 } else { 0 };
        let capabilities = self.capabilities();
        let bind = |from: &Path, to: &str, how: &str| json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", how]});
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "hostname": "pod",
            "root": {"path": root},
            "process": {
                "user": {"uid": uid, "gid": uid, "umask": 18},
                "args": ["sh", "-c", script],
                "env": ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/tmp",
                        format!("RBUILD_ROOT={}/store", if self == Self::OldMounts { "/vol" } else { "/tmp" }),
                        format!("RIG={}", rig.token())],
                "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
                "noNewPrivileges": matches!(self, Self::CrunDefault | Self::NoCapabilities | Self::User | Self::Untraced),
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]},
                {"destination": "/vol", "type": "tmpfs", "source": "vol", "options": ["mode=1777"]},
                bind(Path::new("/sys"), "/sys", "ro"),
                bind(binary(), "/usr/local/bin/rbuild", "ro"),
                bind(busybox_tar(), "/busybox.tar", "ro"),
                bind(&debian_tar(), "/debian.tar", "ro"),
                bind(&rig.path("in"), "/in", "ro"),
                bind(&rig.path("out"), "/out", "rw"),
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
                "seccomp": self.seccomp(),
                "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        if spec["linux"]["seccomp"].is_null() {
            spec["linux"].as_object_mut().expect("object").remove("seccomp");
        }
        spec
    }
}

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// A directory that is seen as `/in`, one that is seen as `/out`, and the Debian root below both.
struct Pod {
    rig: Rig,
    place: Place,
    debian: std::path::PathBuf,
}

impl Pod {
    fn new(place: Place) -> Option<Self> {
        if !can_run(Who::Root) || !installed("crun") {
            return None;
        }
        let rig = Rig::empty(Who::Root);
        for name in ["in", "out", "bundle", "bundle/upper", "bundle/work", "bundle/root"] {
            std::fs::create_dir(rig.path(name)).expect("mkdir");
            set_mode(&rig.path(name), 0o755);
        }
        set_mode(&rig.path("out"), 0o1777);
        // crun looks for the way to the bundle as the container's user.
        set_mode(&rig.path(""), 0o755);
        Some(Self { rig, place, debian: debian_root()? })
    }

    /// Runs a script in a container of its own. Everything is mounted in a mount namespace that ends with it.
    fn sh(&self, script: &str) -> Output {
        let bundle = self.rig.path("bundle");
        let spec = self.place.spec(&bundle.join("root"), &self.rig, script);
        std::fs::write(bundle.join("config.json"), spec.to_string()).expect("write");
        // cgroups of the second version below those of the first are nothing for crun, and not what is looked at.
        let outer = "umount /sys/fs/cgroup/unified 2>/dev/null; cd \"$1\" && \
                     mount -t overlay overlay -olowerdir=\"$2\",upperdir=upper,workdir=work root && \
                     exec crun --root \"$1/state\" --cgroup-manager=disabled run --bundle \"$1\" \"$3\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", outer, "sh"]).arg(&bundle).arg(&self.debian).arg(self.rig.token());
        finish(start(&mut command), &[script])
    }

    #[track_caller]
    fn ok(&self, script: &str) -> Output {
        let out = self.sh(script);
        assert!(out.status.success(), "{:?}: {script}: {}\n{}{}", self.place, out.status, out.stdout, out.stderr);
        out
    }

    fn add(&self, name: &str, files: &[(&str, &str)]) {
        self.rig.context(&format!("in/{name}"), files);
    }

    fn image(&self, name: &str) -> Image {
        Image::read(&self.rig.path(&format!("out/{name}.tar")))
    }
}

const IMPORT: &str = "rbuild import /busybox.tar busybox:latest >/dev/null || exit 9\n";

const MORE: &str = "\
FROM busybox
RUN mkdir -p /d/e && touch /d/x /f && chmod 4755 /f
RUN rm -rf /d && mkdir /d && touch /d/y && ln -s y /d/z
RUN test -e /d/y && test ! -e /d/x && test ! -e /d/e && rm /d/y
RUN test ! -e /d/y && test -L /d/z
COPY --chown=7:8 --chmod=600 a /z/q
RUN --mount=type=bind,target=/ctx --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=secret,id=s \\
    test -f /ctx/a && touch /c/x /t/y && test \"$(cat /run/secrets/s)\" = hidden
RUN --mount=type=cache,target=/c test -e /c/x && test ! -e /t && test ! -e /run/secrets
RUN <<EOS
echo script > /made
EOS
USER 33:44
RUN touch /tmp/u && chown 33:44 /tmp/u
";

/// Places where RUN works.
fn builds_everything(place: Place) -> Option<String> {
    let pod = Pod::new(place)?;
    let mut script = IMPORT.to_owned();
    for dir in case_dirs() {
        let name = dir.file_name().expect("has one").to_string_lossy().into_owned();
        let text = std::fs::read(dir.join("case.json")).expect("case.json");
        let case: Value = serde_json::from_slice(&text).expect("JSON");
        copy_tree(&dir, &pod.rig.path("in"));
        make_archives(&pod.rig.path("in").join(&name), &case);
        let arguments = case["args"].as_array().map(Vec::as_slice).unwrap_or_default();
        let arguments: Vec<_> = arguments.iter().map(|a| format!("'{}'", a.as_str().expect("text"))).collect();
        script +=
            &format!("rbuild build -q -o type=oci,dest=/out/{name}.tar {} /in/{name} || exit 8\n", arguments.join(" "));
    }
    copy_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart"), &pod.rig.path("in"));
    script +=
        "rbuild build -q -o type=oci,dest=/out/quickstart.tar --build-arg BUILD_NUMBER=7 /in/quickstart || exit 6\n";
    pod.add("more", &[("Dockerfile", MORE), ("a", "1\n"), ("s", "hidden")]);
    script += "rbuild build --progress=plain --secret id=s,src=/in/more/s -o type=oci,dest=/out/more.tar /in/more || exit 7\n";
    script += "rbuild build --progress=plain --secret id=s,src=/in/more/s -t more /in/more 2>&1 | grep -c CACHED\n";
    script += "rbuild run --rm more cat /made; rbuild doctor\n";
    let out = pod.ok(&script);
    let (cached, rest) = out.stdout.split_once("\nscript\n").expect("the script's output");
    assert!(cached.ends_with('9'), "all steps are taken from the cache: {}{}", out.stdout, out.stderr);
    for dir in case_dirs() {
        let name = dir.file_name().expect("has one").to_string_lossy().into_owned();
        let text = std::fs::read(dir.join("case.json")).expect("case.json");
        let mut case: Value = serde_json::from_slice(&text).expect("JSON");
        if !place.keeps_owners()
            && let Some(given_away) = case["files"].get_mut("/var/log/apache2")
        {
            // By a RUN, unlike what COPY gave away.
            *given_away = json!({"uid": 0, "gid": 0});
        }
        check_image(&name, &case, &pod.image(&name));
    }
    check_quickstart(&pod.image("quickstart"));
    let image = pod.image("more");
    let file = |path: &str| image.files.get(path).unwrap_or_else(|| panic!("{path} in {:?}", image.files.keys()));
    assert_eq!((file("/z/q").uid, file("/z/q").gid, file("/z/q").mode & 0o7777), (7, 8, 0o600));
    let given = if place.keeps_owners() { (33, 44) } else { (0, 0) };
    assert_eq!((file("/tmp/u").uid, file("/tmp/u").gid), given);
    assert_eq!(file("/f").mode & 0o7777, 0o4755);
    assert!(["/d/x", "/d/y", "/c", "/t", "/run/secrets"].iter().all(|path| !image.files.contains_key(*path)));
    crate::traces::none(&pod.rig);
    Some(rest.to_owned())
}

/// What `examples/quickstart/Dockerfile` says.
fn check_quickstart(image: &Image) {
    let config = &image.config["config"];
    assert_eq!(config["Entrypoint"], json!(["/usr/bin/serve"]));
    assert_eq!(
        (&config["Cmd"], &config["User"], &config["WorkingDir"]),
        (&json!(["once"]), &json!("app"), &json!("/srv"))
    );
    assert_eq!(config["Labels"]["org.example.build"], "7");
    assert_eq!(config["Healthcheck"]["Interval"], 30_000_000_000_u64);
    let (serve, greeting) = (&image.files["/usr/bin/serve"], &image.files["/srv/greeting.txt"]);
    assert_eq!((serve.mode & 0o7777, serve.uid), (0o755, 0));
    assert_eq!((greeting.content.as_slice(), greeting.uid, greeting.gid), (b"hello, world\n".as_slice(), 1000, 1000));
    assert!(String::from_utf8_lossy(&image.files["/etc/passwd"].content).ends_with("app:x:1000:1000::/srv:/bin/sh\n"));
}

#[test]
fn as_root_with_dockers_rights() {
    let Some(doctor) = builds_everything(Place::DockerRoot) else { return };
    assert!(doctor.contains("no namespaces, copied trees, one RUN at a time in a changed root: "), "{doctor}");
    assert!(doctor.contains("chroot      allowed"), "{doctor}");
    assert!(doctor.contains("owners      as in the image"), "{doctor}");
}

#[test]
fn on_a_kernel_without_openat2() {
    builds_everything(Place::OldKernel);
}

#[test]
fn as_root_with_old_mounts_and_a_masked_proc() {
    let Some(doctor) = builds_everything(Place::OldMounts) else { return };
    assert!(doctor.contains("sandbox     root, overlay"), "{doctor}");
}

const WITHOUT_RUN: &str = "\
FROM busybox AS files
WORKDIR /srv/deep
COPY --chown=33:44 a b
ADD --chmod=0640 a /etc/conf
FROM scratch
COPY --from=files --chown=7 /srv /srv
COPY --from=files /etc/conf /bin/busybox /bin/
USER 5
";

/// Where nothing lets us change the root, nor trace anybody: everything but RUN works, and the way out is told.
#[test]
fn as_a_user_where_nothing_may_be_traced() {
    let Some(pod) = Pod::new(Place::Untraced) else { return };
    pod.add("files", &[("Dockerfile", WITHOUT_RUN), ("a", "1\n")]);
    pod.add("run", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let script =
        format!("{IMPORT}rbuild build --progress=plain -o type=oci,dest=/out/files.tar /in/files && rbuild doctor");
    let out = pod.ok(&script);
    for text in ["no RUN, only the other instructions", "give CAP_SYS_CHROOT, or let processes trace their children"] {
        assert!(out.stderr.contains(text), "said in the build: {}", out.stderr);
        assert!(out.stdout.contains(text), "said by doctor: {}", out.stdout);
    }
    let image = pod.image("files");
    assert_eq!((image.files["/srv/deep/b"].uid, image.files["/srv/deep/b"].gid), (7, 7));
    assert_eq!(image.files["/bin/conf"].mode & 0o7777, 0o640);
    let out = pod.sh(&format!("{IMPORT}rbuild build --progress=plain /in/run"));
    assert!(!out.status.success());
    assert!(out.stderr.contains("CAP_SYS_CHROOT") && out.stderr.contains(">>> RUN true"), "{}", out.stderr);
    crate::traces::none(&pod.rig);
}

/// Places where nothing lets us change the root: paths are translated.
fn builds_translated(place: Place) {
    let Some(doctor) = builds_everything(place) else { return };
    assert!(doctor.contains("RUN by translated paths"), "{doctor}");
    assert!(doctor.contains("ptrace      allowed: RUN works"), "{doctor}");
}

#[test]
fn as_root_of_crun_spec() {
    builds_translated(Place::CrunDefault);
}

#[test]
fn as_root_without_any_right() {
    builds_translated(Place::NoCapabilities);
}

#[test]
fn as_a_user_without_any_right() {
    builds_translated(Place::User);
}

/// Debian with what package managers, compilers and interpreters do: by root without rights, and by a user.
fn installs_and_compiles(place: Place) {
    let Some(pod) = Pod::new(place) else { return };
    if !mirrors_answer() {
        return;
    }
    let machine = machine(&pod.rig);
    copy_tree(Path::new(&machine), &pod.rig.path("in"));
    pod.add("plain", &[("Dockerfile", "FROM debian:12\nCOPY --from=machine / /\n")]);
    pod.add("app", &[("Dockerfile", DOCKERFILE), ("hello.c", HELLO)]);
    let script = format!(
        "rbuild import /debian.tar debian:12 || exit 9\n\
         rbuild build -q -t base --build-context machine=/in/machine /in/plain || exit 8\n\
         rbuild build --progress=plain -o type=oci,dest=/out/app.tar --build-arg BASE=base {} /in/app || exit 7\n\
         rbuild build -q -t app --build-arg BASE=base {0} /in/app && rbuild run --rm app\n",
        proxies().join(" ")
    );
    let out = pod.ok(&script);
    assert!(out.stdout.ends_with("found __author__ = \"Benjamin Peterson <benjamin@python.org>\"\n"), "{}", out.stdout);
    let image = pod.image("app");
    assert_eq!(image.config["config"]["User"], "www-data");
    assert_eq!(image.files["/usr/local/bin/hello"].mode & 0o7777, 0o755);
    let passwd = &image.files["/usr/bin/passwd"];
    assert_eq!((passwd.mode & 0o7777, passwd.uid), (0o4755, 0), "what was there before is as it was");
    assert_eq!(image.files["/etc/shadow"].gid, 42);
    crate::traces::none(&pod.rig);
}

#[test]
fn net_packages_for_a_user_without_any_right() {
    installs_and_compiles(Place::User);
}

#[test]
fn net_packages_for_root_of_crun_spec() {
    installs_and_compiles(Place::CrunDefault);
}

/// What a RUN by translated paths tries: everything outside of its root that an honest path may lead to.
const OUTWARDS: &str = r#"FROM busybox
RUN <<EOS
ln -s /tmp/canary /link
ln -s ../../../../../../../../tmp/canary /up
exec 3</ 4</proc
cd /usr
for path in /tmp/canary /../tmp/canary ../../../../../../tmp/canary /link /up /proc/self/root/tmp/canary /proc/thread-self/root/tmp/canary \
    /proc/self/cwd/../../../../../../../../tmp/canary /proc/self/fd/3/../../../../../../../../tmp/canary /dev/fd/3/tmp/canary \
    /proc/self/task/$$/root/tmp/canary /proc/1/root/tmp/canary /proc/$PPID/root/tmp/canary /proc/$PPID/cwd/tmp/canary \
    /proc/self/exe/../../../../../../tmp/canary /proc/self/fd/4/1/root/tmp/canary; do
    if grep -q canary $path 2>/dev/null; then echo "LEAK $path"; fi
done
for file in environ cmdline maps; do
    if cat /proc/[0-9]*/$file 2>/dev/null | grep -q -e 'hidden-[w]ord' -e 'local/bin/[r]build'; then echo "LEAK $file"; fi
done
for pid in $(ls /proc | grep '^[0-9]'); do readlink /proc/$pid/exe; done | grep -v /bin/ && echo "LEAK exe"
kill -0 1 2>/dev/null && echo "LEAK kill"
chroot /usr /bin/env ls / | grep -q canary && echo "LEAK chroot"
mount -t tmpfs none /tmp 2>/dev/null && echo "LEAK mount"
test "$(readlink /proc/self/cwd)" = /usr && test "$(pwd)" = /usr && test "$(readlink /proc/self/root)" = / && echo names are right
echo own >/tmp/canary && grep -q own /link && grep -q own /up && grep -q own /proc/self/root/tmp/canary && echo own is found
kill -9 -1; echo still here
EOS
"#;

#[test]
fn translated_paths_stay_inside() {
    let Some(pod) = Pod::new(Place::User) else { return };
    pod.add("outwards", &[("Dockerfile", OUTWARDS)]);
    let out = pod.ok(&format!(
        "export TOKEN=hidden-word; echo canary >/tmp/canary\n{IMPORT}rbuild build --progress=plain /in/outwards; cat /tmp/canary"
    ));
    assert!(!out.stderr.contains("LEAK"), "{}", out.stderr);
    for text in ["names are right", "own is found", "still here"] {
        assert!(out.stderr.contains(&format!(" {text}\n")), "{text}: {}", out.stderr);
    }
    assert!(out.stdout.ends_with("canary\n"), "what is outside is as it was: {}", out.stdout);
    crate::traces::none(&pod.rig);
}
