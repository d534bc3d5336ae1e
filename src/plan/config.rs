//! Folding metadata instructions into an image config, field by field as BuildKit does, and the history texts they leave.
//!
//! Each function changes one config by one instruction whose words are expanded already. Knows no stage and no step.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::dockerfile::ast::{CommandLine, Healthcheck};
use crate::oci::config::{Empty, HealthConfig, ImageConfig};
use crate::oci::platform::Platform;
use crate::plan::gotext;

/// The search path of processes when an image sets none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The config of the empty image.
pub(crate) fn empty(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
        ..ImageConfig::default()
    };
    "/".clone_into(&mut config.config.working_dir);
    ensure_path(&mut config, platform);
    config
}

/// What is inherited from an image: all of its config, nothing of its layers, history and age. Fields rbuild does not
/// know describe the base as it was built, not what is built on it.
pub(crate) fn inherited(base: &ImageConfig) -> ImageConfig {
    ImageConfig {
        created: None,
        history: Vec::new(),
        rootfs: crate::oci::config::RootFs::default(),
        other: BTreeMap::new(),
        ..base.clone()
    }
}

/// Gives an image without PATH the default one.
pub(crate) fn ensure_path(config: &mut ImageConfig, platform: &Platform) {
    let set = env(config).any(|(name, _)| name == "PATH");
    if !set && platform.os != "windows" {
        set_env(config, "PATH", DEFAULT_PATH);
    }
}

/// The variables of a config.
pub(crate) fn env(config: &ImageConfig) -> impl Iterator<Item = (&str, &str)> {
    config.config.env.iter().flatten().map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// ENV: replaces in place or appends.
pub(crate) fn set_env(config: &mut ImageConfig, name: &str, value: &str) {
    let env = config.config.env.get_or_insert_default();
    let pair = format!("{name}={value}");
    match env.iter_mut().find(|pair| pair.split_once('=').map_or(pair.as_str(), |(key, _)| key) == name) {
        Some(old) => *old = pair,
        None => env.push(pair),
    }
}

/// argv of a command line; shell form gets the image's shell in front.
pub(crate) fn argv(config: &ImageConfig, command: &CommandLine) -> Vec<String> {
    match command {
        CommandLine::Exec(words) => words.clone(),
        CommandLine::Shell(text) => with_shell(config, text),
    }
}

/// The image's shell, or the default one, and the text for it.
pub(crate) fn with_shell(config: &ImageConfig, text: &str) -> Vec<String> {
    let shell = config.config.shell.as_deref().unwrap_or_default();
    let mut argv: Vec<String> = match (shell, config.os.as_str()) {
        ([], "windows") => vec!["cmd".into(), "/S".into(), "/C".into()],
        ([], _) => vec!["/bin/sh".into(), "-c".into()],
        (shell, _) => shell.to_vec(),
    };
    argv.push(text.to_owned());
    argv
}

/// CMD
pub(crate) fn cmd(config: &mut ImageConfig, command: &CommandLine) -> String {
    let argv = argv(config, command);
    let text = format!("CMD {}", gotext::quoted_list(&argv));
    config.config.cmd = Some(argv);
    config.config.args_escaped = true;
    text
}

/// ENTRYPOINT; drops a CMD that this stage did not set itself.
pub(crate) fn entrypoint(config: &mut ImageConfig, command: &CommandLine, cmd_set_here: bool) -> String {
    let argv = argv(config, command);
    let text = format!("ENTRYPOINT {}", gotext::quoted_list(&argv));
    config.config.entrypoint = Some(argv);
    if !cmd_set_here {
        config.config.cmd = None;
    }
    text
}

/// ENV with expanded pairs, without the process environment.
pub(crate) fn envs(config: &mut ImageConfig, pairs: &[(String, String)]) -> String {
    for (name, value) in pairs {
        set_env(config, name, value);
    }
    pairs.iter().fold("ENV".to_owned(), |text, (name, value)| format!("{text} {name}={value}"))
}

/// LABEL
pub(crate) fn labels(config: &mut ImageConfig, pairs: &[(String, String)]) -> String {
    let labels = config.config.labels.get_or_insert_default();
    labels.extend(pairs.iter().cloned());
    pairs.iter().fold("LABEL".to_owned(), |text, (name, value)| format!("{text} {name}={value}"))
}

/// EXPOSE with its `port/proto` names.
pub(crate) fn expose(config: &mut ImageConfig, names: &[String]) -> String {
    let ports = config.config.exposed_ports.get_or_insert_default();
    ports.extend(names.iter().map(|name| (name.clone(), Empty {})));
    format!("EXPOSE {}", gotext::plain_list(names))
}

/// VOLUME
pub(crate) fn volume(config: &mut ImageConfig, paths: &[String]) -> Result<String, String> {
    if paths.iter().any(String::is_empty) {
        return Err("VOLUME specified can not be an empty string".to_owned());
    }
    let volumes = config.config.volumes.get_or_insert_default();
    volumes.extend(paths.iter().map(|path| (path.clone(), Empty {})));
    Ok(format!("VOLUME {}", gotext::plain_list(paths)))
}

/// USER
pub(crate) fn user(config: &mut ImageConfig, user: &str) -> String {
    user.clone_into(&mut config.config.user);
    format!("USER {user}")
}

/// STOPSIGNAL: kept as written, but it must be a signal.
pub(crate) fn stop_signal(config: &mut ImageConfig, signal: &str) -> Result<String, String> {
    if !is_signal(signal) {
        return Err(format!("invalid signal: {signal}"));
    }
    signal.clone_into(&mut config.config.stop_signal);
    Ok(format!("STOPSIGNAL {signal}"))
}

/// SHELL
pub(crate) fn shell(config: &mut ImageConfig, words: &[String]) -> String {
    config.config.shell = Some(words.to_vec());
    format!("SHELL {}", gotext::plain_list(words))
}

/// MAINTAINER
pub(crate) fn maintainer(config: &mut ImageConfig, name: &str) -> String {
    name.clone_into(&mut config.author);
    format!("MAINTAINER {name}")
}

/// ONBUILD: kept verbatim, no history.
pub(crate) fn onbuild(config: &mut ImageConfig, trigger: &str) {
    config.config.on_build.get_or_insert_default().push(trigger.to_owned());
}

/// HEALTHCHECK; its shell form is for the shell of the container, not the one of SHELL.
pub(crate) fn healthcheck(config: &mut ImageConfig, check: &Healthcheck) -> String {
    let nanoseconds =
        |time: &Option<Duration>| time.map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
    let health = match check {
        Healthcheck::None => HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() },
        Healthcheck::Cmd { command, interval, timeout, start_period, start_interval, retries } => {
            let test = match command {
                CommandLine::Exec(words) => [vec!["CMD".to_owned()], words.clone()].concat(),
                CommandLine::Shell(text) => vec!["CMD-SHELL".into(), text.clone()],
            };
            HealthConfig {
                test: Some(test),
                interval: nanoseconds(interval),
                timeout: nanoseconds(timeout),
                start_period: nanoseconds(start_period),
                start_interval: nanoseconds(start_interval),
                retries: retries.map_or(0, i64::from),
            }
        }
    };
    let text = format!("HEALTHCHECK {}", gotext::healthcheck(&health));
    config.config.healthcheck = Some(health);
    text
}

/// The platform of the finished image: an asked-for one wins over the base's.
pub(crate) fn set_platform(config: &mut ImageConfig, asked: Option<&Platform>) {
    if let Some(platform) = asked {
        let same = platform.os == config.os && platform.architecture == config.architecture;
        platform.os.clone_into(&mut config.os);
        platform.architecture.clone_into(&mut config.architecture);
        if !platform.variant.is_empty() || !same {
            platform.variant.clone_into(&mut config.variant);
        }
        if !platform.os_version.is_empty() || !same {
            platform.os_version.clone_into(&mut config.os_version);
        }
        if !platform.os_features.is_empty() {
            platform.os_features.clone_into(&mut config.os_features);
        }
    }
    config.os_features.sort();
    config.os_features.dedup();
    let normal = Platform::new(&config.os, &config.architecture, &config.variant);
    config.os = normal.os;
    config.architecture = normal.architecture;
    config.variant = normal.variant;
}

/// Linux signals by number or name, with or without `SIG`.
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 36] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
        "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
        "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
    ];
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let in_range = |rest: &str, last: u8| {
        let digits = !rest.starts_with('0') && rest.bytes().all(|b| b.is_ascii_digit());
        digits && rest.parse().is_ok_and(|n: u8| (1..=last).contains(&n))
    };
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(|rest| in_range(rest, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|rest| in_range(rest, 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name_or_number() {
        for good in ["TERM", "sigterm", "SIGRTMIN+15", "9", "-1", "RTMAX-14", "999"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "0", "SIGFOO", "RTMIN+16", "RTMIN+01", "SIGSIGTERM"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }

    #[test]
    fn env_is_replaced_in_place() {
        let mut config = empty(&Platform::new("linux", "amd64", ""));
        assert_eq!(envs(&mut config, &[("A".into(), "1".into()), ("PATH".into(), String::new())]), "ENV A=1 PATH=");
        ensure_path(&mut config, &Platform::new("linux", "amd64", ""));
        assert_eq!(config.config.env.as_deref(), Some(&["PATH=".to_owned(), "A=1".to_owned()][..]));
    }

    #[test]
    fn healthcheck_text_is_buildkits() {
        let mut config = ImageConfig::default();
        let check = Healthcheck::Cmd {
            command: CommandLine::Shell("true".into()),
            interval: Some(Duration::from_millis(1500)),
            timeout: None,
            start_period: Some(Duration::from_secs(60)),
            start_interval: None,
            retries: Some(3),
        };
        assert_eq!(
            healthcheck(&mut config, &check),
            "HEALTHCHECK {Test:[CMD-SHELL true] Interval:1.5s Timeout:0s StartPeriod:1m0s StartInterval:0s Retries:3}"
        );
    }
}
