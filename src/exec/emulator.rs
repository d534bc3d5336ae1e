//! Programs of other machines: which of them the kernel can hand to an emulator (binfmt_misc), and how to get one.
//!
//! Nothing is registered here: that is the administrator's, and holds for the whole machine.

use crate::oci::platform::Platform;

/// Where the kernel lists emulators.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// Architectures as images and as QEMU call them.
const NAMES: [(&str, &str); 9] = [
    ("amd64", "x86_64"),
    ("386", "i386"),
    ("arm64", "aarch64"),
    ("arm", "arm"),
    ("ppc64le", "ppc64le"),
    ("s390x", "s390x"),
    ("riscv64", "riscv64"),
    ("mips64le", "mips64el"),
    ("loong64", "loongarch64"),
];

fn qemu(platform: &Platform) -> &str {
    let found = NAMES.iter().find(|(architecture, _)| *architecture == platform.architecture);
    found.map_or(platform.architecture.as_str(), |(_, name)| name)
}

/// The platforms whose programs the kernel hands to an emulator that steps can reach.
pub fn emulated() -> Vec<String> {
    let usable = |name: &str| flags(name).is_some_and(|flags| flags.contains('F'));
    NAMES.iter().filter(|(_, name)| usable(name)).map(|(architecture, _)| format!("linux/{architecture}")).collect()
}

/// The flags of the enabled emulator `qemu-NAME`.
fn flags(name: &str) -> Option<String> {
    let text = fs_err::read_to_string(format!("{REGISTERED}/qemu-{name}")).ok()?;
    flags_in(&text)
}

fn flags_in(text: &str) -> Option<String> {
    let enabled = text.lines().next()? == "enabled";
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?.trim().to_owned();
    enabled.then_some(flags)
}

/// What a user has to do so that programs for `platform` run here; `None` if they do without.
pub fn advice(platform: &Platform) -> Option<String> {
    if Platform::host().rank(platform).is_some() {
        return None;
    }
    let release = fs_err::read_to_string("/etc/os-release").unwrap_or_default();
    Some(advice_by(platform, flags(qemu(platform)).as_deref(), &release))
}

fn advice_by(platform: &Platform, flags: Option<&str>, release: &str) -> String {
    let name = qemu(platform);
    let what = format!("programs for {} need an emulator on this machine", platform.short());
    if flags.is_some_and(|flags| !flags.contains('F')) {
        return format!(
            "{what}; qemu-{name} is registered, but without the flag F, so that steps do not find it: register it again with F \
             (packages of static QEMU do)"
        );
    }
    match install(name, release) {
        Some(command) => format!("{what}: {command}"),
        None => {
            format!("{what}: install a static qemu-{name} and register it with binfmt_misc, flag F")
        }
    }
}

/// The command of this distribution.
fn install(name: &str, release: &str) -> Option<String> {
    let field = |key: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
    };
    let ids = format!("{} {}", field("ID"), field("ID_LIKE"));
    let is = |id: &str| ids.split_whitespace().any(|word| word == id);
    let version: u32 = field("VERSION_ID").split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    Some(if field("ID") == "debian" && version >= 13 {
        "sudo apt-get install qemu-user-binfmt".to_owned()
    } else if is("debian") || is("ubuntu") {
        "sudo apt-get install qemu-user-static binfmt-support".to_owned()
    } else if is("fedora") || is("rhel") {
        "sudo dnf install qemu-user-static".to_owned()
    } else if is("arch") {
        "sudo pacman -S qemu-user-static qemu-user-static-binfmt".to_owned()
    } else if is("alpine") {
        format!("sudo apk add qemu-{name} qemu-openrc && sudo rc-service qemu-binfmt start")
    } else if is("suse") || is("opensuse") {
        "sudo zypper install qemu-linux-user".to_owned()
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_fits_the_distribution() {
        let platform = Platform::new("linux", "arm64", "");
        let check = |release: &str, flags: Option<&str>, want: &str| {
            let text = advice_by(&platform, flags, release);
            assert!(text.contains(want), "{text}");
        };
        check(
            "ID=debian\nVERSION_ID=\"12\"\n",
            None,
            "arm64 need an emulator on this machine: sudo apt-get install qemu-user-static",
        );
        check("ID=debian\nVERSION_ID=\"13\"\n", None, "sudo apt-get install qemu-user-binfmt");
        check("ID=ubuntu\nID_LIKE=debian\n", None, "sudo apt-get install qemu-user-static binfmt-support");
        check("ID=alpine\n", None, "sudo apk add qemu-aarch64 ");
        check("", None, "install a static qemu-aarch64 and register it");
        check("ID=debian\n", Some("OC"), "without the flag F");
    }

    #[test]
    fn the_kernels_words_are_understood() {
        let text = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n";
        assert_eq!(flags_in(text).as_deref(), Some("POCF"));
        assert_eq!(flags_in(&text.replace("enabled", "disabled")), None);
        assert_eq!(flags_in(""), None);
    }

    #[test]
    fn our_own_programs_need_none() {
        assert_eq!(advice(&Platform::host()), None);
    }
}
