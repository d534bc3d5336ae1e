//! `rbuild run`: a command in a throw-away root of an image, and `rbuild doctor`, which says what the sandbox can do here.
//!
//! What an image says and what the command line says become one process by `docker run`'s rules; so do the exit codes.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use rbuild_cache::digest::{Blake3, LayerId};

use super::args_run::RunArgs;
use super::env::Env;
use super::moving::fetch;
use super::records::best;
use super::request::{self, RegistryRequest, RunRequest, StoreRequest};
use super::terminal::Terminal;
use super::world::{Opened, enter, now};
use super::{Done, Failure, print, screen};
use crate::catalog::pull::Policy;
use crate::catalog::{CatalogError, Image};
use crate::exec::{ExecError, Exit, Mount, MountKind, Process, Stdio, emulator, oci_runtime};
use crate::layers::{LayerError, View};
use crate::oci::config::ContainerConfig;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::plan::graph::Network;
use crate::tar::entry::LayerPath;
use crate::transfer::users::{MAX_USER_FILE, ProcessUser, process_user};

/// rbuild itself failed.
const FAILED: u8 = 125;
/// The program cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// There is no such program.
const NOT_FOUND: u8 = 127;
/// The user asked to stop.
pub(super) const INTERRUPTED: u8 = 130;
/// PATH of a process whose image sets none.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Digits of a made-up host name.
const HOSTNAME_DIGITS: usize = 12;

/// `rbuild run`
pub(super) fn run(args: &RunArgs, env: &Env, place: &StoreRequest) -> Done {
    let failed = |failure: Failure| if failure.code == 1 { Failure { code: FAILED, ..failure } } else { failure };
    start(args, env, place).map_err(failed)
}

fn start(args: &RunArgs, env: &Env, place: &StoreRequest) -> Done {
    let request = RunRequest::new(args, env)?;
    let opened = Opened::new(enter(true)?, place)?;
    let registries = RegistryRequest::new(&args.registries, env)?;
    let image = obtain(&request.image, env, &registries, &opened)?;
    let ids = image.layer_ids();
    let config = image.parsed().map_err(|e| Failure::of(&e).named(&format!("image {}", request.image)))?.config;
    let world = |e: LayerError| Failure::of(&e).named(&format!("image {}", request.image));
    let account = account(&View::new(&opened.layers, &ids).map_err(world)?, user(&request, &config))?;

    let process = process(&request, &config, &account, &hostname(&request))?;
    match launch(&opened, &ids, &format!("image {}", request.image), &process, request.interactive, request.tty)? {
        Ok(exit) => Ok(ExitCode::from(u8::try_from(exit.code).unwrap_or(u8::MAX))),
        Err(ExecError::Cancelled(_)) => Ok(ExitCode::from(INTERRUPTED)),
        Err(ExecError::NotExecutable(text)) => {
            let code = code_of_refusal(&text);
            let text = format!("failed to run {:?}: {text}{}", process.argv.join(" "), foreign(&image));
            Err(Failure { code, ..Failure::text(text) })
        }
        Err(error @ (ExecError::Setup(_) | ExecError::Refused(_) | ExecError::Launcher(_))) => {
            Err(Failure::of(&error).named("set up the sandbox"))
        }
    }
}

/// Runs a process in a throw-away root of layers that are in the store; `what` they are, for errors.
pub(super) fn launch(
    opened: &Opened,
    ids: &[LayerId],
    what: &str,
    process: &Process,
    interactive: bool,
    tty: bool,
) -> Result<Result<Exit, ExecError>, Failure> {
    let scratch = opened.store.temp_dir("run").map_err(|e| Failure::of(&e))?;
    let probe = opened.scratch()?;
    let mut lowers = opened.layers.lowers(ids).map_err(|e| Failure::of(&e).named(what))?;
    if lowers.is_empty() {
        let empty = probe.path().join("empty");
        fs_err::create_dir(&empty).map_err(|e| Failure::of(&e))?;
        lowers.push(empty);
    }
    let root = opened.snapshots(probe.path()).prepare(&lowers, scratch.path());
    let root = root.map_err(|e| Failure::of(&e).named("prepare the root"))?;
    let terminal = Terminal::attach(interactive, tty, opened.runtime.handle());
    let terminal = terminal.map_err(|e| Failure::text(e.to_string()))?;
    terminal.give_to(process.uid, process.gid);
    let ran = opened.session.executor.run(&root, process, &mut |_, _| {}, &opened.cancel);
    drop(terminal);
    Ok(ran)
}

/// The image, with all its layers in the store: from the registry if there is none of that name.
fn obtain(text: &str, env: &Env, registries: &RegistryRequest, opened: &Opened) -> Result<Image, Failure> {
    let catalog = opened.catalog();
    let missing = |what: &dyn std::fmt::Display| Failure::text(format!("No such image: {what}"));
    let image = match catalog.find(text) {
        Ok((_, named)) => {
            let id = best(&named).ok_or_else(|| missing(&text))?;
            catalog.get(&id).map_err(|e| Failure::of(&e))?.ok_or_else(|| missing(&id))?
        }
        Err(CatalogError::Unknown(_)) => {
            let name = Reference::parse_tagged(text).map_err(|e| Failure::of(&e).named(&format!("{text:?}")))?;
            // There is nobody left to tell when stderr is gone.
            let _ = writeln!(std::io::stderr(), "Unable to find image '{}' locally", name.familiar());
            let (display, progress) = screen::open(false, env)?;
            let fetched = fetch(
                opened,
                &opened.puller(env, registries, &progress)?,
                &name,
                &Platform::host(),
                Policy::Missing,
                &progress,
            );
            display.close();
            return Ok(fetched?.image);
        }
        Err(error) => return Err(Failure::of(&error)),
    };
    if !all_here(opened, &image.layer_ids()).map_err(|e| Failure::of(&e))? {
        let (display, progress) = screen::open(false, env)?;
        let puller = opened.puller(env, registries, &progress)?;
        let vertex = progress.vertex(format!("fetch layers of {text}"), &[]);
        vertex.start();
        let fetched = opened.runtime.block_on(puller.ensure_layers(&image, &vertex, &opened.cancel));
        vertex.finish(match &fetched {
            Ok(_) => crate::event::Outcome::Done,
            Err(error) => crate::event::Outcome::Error(error.to_string()),
        });
        display.close();
        fetched.map_err(|e| Failure::of(&e).helped(e.help()))?;
    }
    Ok(image)
}

pub(super) fn all_here(opened: &Opened, ids: &[LayerId]) -> Result<bool, LayerError> {
    for id in ids {
        match opened.layers.record(id)? {
            Some(record) if opened.layers.has_form(&record)? => {}
            Some(_) | None => return Ok(false),
        }
    }
    Ok(true)
}

fn user<'a>(request: &'a RunRequest, config: &'a ContainerConfig) -> &'a str {
    request.user.as_deref().unwrap_or(&config.user)
}

/// Looks `user` up in the root's passwd and group files, following links inside the root.
pub(super) fn account(view: &View, user: &str) -> Result<ProcessUser, Failure> {
    let read = |path: &str| -> Result<Option<Vec<u8>>, Failure> {
        let failed = |e: &dyn std::error::Error| Failure::of(e).named(&format!("read {path}"));
        let resolved = view.resolve(&LayerPath::clean(path), true).map_err(|e| failed(&e))?;
        let Some(found) = resolved.found else { return Ok(None) };
        let mut bytes = Vec::new();
        let file = view.open(&found).map_err(|e| failed(&e))?;
        file.take(MAX_USER_FILE).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
        Ok(Some(bytes))
    };
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    process_user(passwd.as_deref(), group.as_deref(), user).map_err(|e| Failure::of(&e))
}

/// The process that image and command line together mean.
fn process(
    request: &RunRequest,
    config: &ContainerConfig,
    account: &ProcessUser,
    hostname: &str,
) -> Result<Process, Failure> {
    let workdir = request.workdir.as_deref().unwrap_or(&config.working_dir);
    Ok(Process {
        argv: argv(request, config)?,
        env: environment(request, config, account, hostname),
        cwd: if workdir.starts_with('/') { workdir.to_owned() } else { format!("/{workdir}") },
        uid: account.uid,
        gid: account.gid,
        groups: account.groups.clone(),
        mounts: mounts(request)?,
        isolate_network: match request.network {
            Network::None => true,
            Network::Default | Network::Host => false,
        },
        insecure: request.privileged,
        hostname: hostname.to_owned(),
        add_hosts: request.add_hosts.clone(),
        shm_size: request.shm_size,
        ulimits: request.ulimits.clone(),
        stdio: Stdio::Inherited,
    })
}

/// Entrypoint and command. An entrypoint from the command line takes the image's command away with the image's entrypoint.
fn argv(request: &RunRequest, config: &ContainerConfig) -> Result<Vec<String>, Failure> {
    let (mut argv, image_command) = match request.entrypoint.as_deref() {
        None => (config.entrypoint.clone().unwrap_or_default(), config.cmd.as_deref().unwrap_or_default()),
        Some("") => (Vec::new(), &[][..]),
        Some(program) => (vec![program.to_owned()], &[][..]),
    };
    let command = if request.command.is_empty() { image_command } else { &request.command };
    argv.extend_from_slice(command);
    if argv.is_empty() {
        return Err(Failure::text("no command specified: the image has none, so give one after its name"));
    }
    Ok(argv)
}

/// Later ones replace earlier ones in their place.
fn environment(
    request: &RunRequest,
    config: &ContainerConfig,
    account: &ProcessUser,
    hostname: &str,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    set("PATH", DEFAULT_PATH);
    set("HOSTNAME", hostname);
    if request.tty {
        set("TERM", "xterm");
    }
    for text in config.env.iter().flatten() {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        set(name, value);
    }
    for (name, value) in &request.env {
        set(name, value);
    }
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), account.home.clone()));
    }
    env
}

/// Volumes, outer ones first; of two at one place the later one counts.
fn mounts(request: &RunRequest) -> Result<Vec<Mount>, Failure> {
    let mut by_target = BTreeMap::new();
    for volume in &request.volumes {
        let source = fs_err::canonicalize(&volume.host).map_err(|e| Failure::of(&e))?;
        let target = format!("/{}", volume.target.trim_matches('/'));
        by_target.insert(target, MountKind::Bind { source, readonly: volume.readonly });
    }
    let mut mounts: Vec<_> = by_target.into_iter().map(|(target, kind)| Mount { target, kind }).collect();
    mounts.sort_by_key(|mount| mount.target.matches('/').count());
    Ok(mounts)
}

/// The one asked for; this machine's when its network is; else one that nobody else has.
fn hostname(request: &RunRequest) -> String {
    match (&request.hostname, &request.network) {
        (Some(name), _) => name.clone(),
        (None, Network::Host) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        (None, Network::Default | Network::None) => {
            let unique = format!("{:?} {}", now(), std::process::id());
            Blake3::of(unique.as_bytes()).to_string()[..HOSTNAME_DIGITS].to_owned()
        }
    }
}

/// What a shell would end with.
fn code_of_refusal(text: &str) -> u8 {
    let absent = text.contains("not found") || text.contains("no such file or directory");
    if absent { NOT_FOUND } else { NOT_EXECUTABLE }
}

/// Why nothing in the image may be executable here.
fn foreign(image: &Image) -> String {
    match image.platform() {
        Ok(platform) => emulator::advice(&platform).map(|advice| format!(" ({advice})")).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// `rbuild doctor`
pub(super) fn doctor(env: &Env, place: &StoreRequest) -> Done {
    let opened = Opened::new(enter(true)?, place)?;
    let probe = opened.scratch()?;
    let mode = opened.session.mode(probe.path());
    let mut lines = vec![
        ("rbuild", env!("CARGO_PKG_VERSION").to_owned()),
        ("kernel", rustix::system::uname().release().to_string_lossy().into_owned()),
        ("store", place.root.display().to_string()),
        ("sandbox", mode.to_string()),
    ];
    for trial in mode.trials() {
        lines.push((trial.what, trial.outcome));
        lines.extend(trial.unlock.map(|unlock| ("", format!("to unlock: {unlock}"))));
    }
    let emulated = emulator::emulated();
    if emulated.is_empty() {
        lines.push(("emulators", "none: RUN works for this machine's platform only".to_owned()));
        lines.push(("", "to unlock: install static QEMU with its binfmt_misc registration (flag F)".to_owned()));
    } else {
        lines.push(("emulators", format!("RUN also works for {}", emulated.join(", "))));
    }
    lines.extend(oci_runtimes(env, &opened).into_iter().map(|text| ("runtime", text)));
    print(lines.iter().map(|(name, value)| format!("{name:<12}{value}\n")).collect::<String>().as_bytes())
}

/// The runtimes that `--oci-runtime` could be given.
fn oci_runtimes(env: &Env, opened: &Opened) -> Vec<String> {
    let found = oci_runtime::KNOWN.iter().filter_map(|name| request::oci_runtime(name, env));
    let told: Vec<String> = found
        .map(|path| {
            let version = oci_runtime::version(opened.session.host(), &path).unwrap_or_else(|why| why);
            format!("{version} for --oci-runtime {}", path.display())
        })
        .collect();
    if told.is_empty() { vec!["rbuild's own; none for --oci-runtime (crun, runc) found".to_owned()] } else { told }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::request::Volume;
    use super::*;

    fn request() -> RunRequest {
        RunRequest {
            image: "app".to_owned(),
            command: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            volumes: Vec::new(),
            workdir: None,
            user: None,
            interactive: false,
            tty: false,
            network: Network::Default,
            hostname: None,
            add_hosts: Vec::new(),
            privileged: false,
            shm_size: None,
            ulimits: Vec::new(),
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn entrypoint_and_command() {
        let config = |entrypoint: &str, cmd: &str| ContainerConfig {
            entrypoint: Some(words(entrypoint)),
            cmd: Some(words(cmd)),
            ..ContainerConfig::default()
        };
        let check = |entrypoint: Option<&str>, command: &str, config: &ContainerConfig, want: Option<&str>| {
            let entrypoint = entrypoint.map(str::to_owned);
            let request = RunRequest { entrypoint, command: words(command), ..request() };
            assert_eq!(argv(&request, config).ok(), want.map(words));
        };
        let both = config("/entry -x", "serve now");
        check(None, "", &both, Some("/entry -x serve now"));
        check(None, "help", &both, Some("/entry -x help"));
        check(Some("sh"), "", &both, Some("sh"));
        check(Some("sh"), "-c ls", &both, Some("sh -c ls"));
        check(Some(""), "ls", &both, Some("ls"));
        check(Some(""), "", &both, None);
        check(None, "", &config("", "sh"), Some("sh"));
        check(None, "", &ContainerConfig::default(), None);
    }

    #[test]
    fn variables() {
        let account = ProcessUser { uid: 7, gid: 7, groups: vec![7], home: "/home/u".to_owned() };
        let given = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
        let show = |request: &RunRequest, env: &[&str]| {
            let config = ContainerConfig { env: given(env), ..ContainerConfig::default() };
            let env = environment(request, &config, &account, "box");
            env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(show(&request(), &[]), format!("PATH={DEFAULT_PATH} HOSTNAME=box HOME=/home/u"));
        let own =
            RunRequest { tty: true, env: vec![("A".into(), "2".into()), ("B".into(), "x=y".into())], ..request() };
        assert_eq!(
            show(&own, &["PATH=/bin", "A=1", "HOME=/h", "TERM=vt100"]),
            "PATH=/bin HOSTNAME=box TERM=vt100 A=2 HOME=/h B=x=y"
        );
    }

    #[test]
    fn users_and_directories() {
        let config =
            ContainerConfig { user: "app".to_owned(), working_dir: "srv".to_owned(), ..ContainerConfig::default() };
        assert_eq!(user(&request(), &config), "app");
        assert_eq!(user(&RunRequest { user: Some("0:5".to_owned()), ..request() }, &config), "0:5");
        let account = ProcessUser { uid: 1, gid: 2, groups: vec![2], home: "/".to_owned() };
        let with = RunRequest { command: words("ls"), network: Network::None, privileged: true, ..request() };
        let process = process(&with, &config, &account, "box").unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!((process.cwd.as_str(), process.uid, process.gid), ("/srv", 1, 2));
        assert!(process.isolate_network && process.insecure);
    }

    #[test]
    fn volumes_are_mounted_from_the_outside_in() {
        let volume = |target: &str| Volume { host: PathBuf::from("/"), target: target.to_owned(), readonly: false };
        let with = RunRequest { volumes: vec![volume("/a/b/c/"), volume("/z"), volume("/a/b")], ..request() };
        let mounts = mounts(&with).unwrap_or_else(|failure| panic!("{failure}"));
        let targets: Vec<_> = mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/z", "/a/b", "/a/b/c"]);
    }

    #[test]
    fn refusals_have_the_codes_of_shells() {
        assert_eq!(code_of_refusal("exec: \"foo\": executable file not found in $PATH"), NOT_FOUND);
        assert_eq!(code_of_refusal("exec: \"/x\": stat /x: no such file or directory"), NOT_FOUND);
        assert_eq!(code_of_refusal("exec /x: permission denied"), NOT_EXECUTABLE);
    }

    #[test]
    fn host_names() {
        assert_eq!(hostname(&RunRequest { hostname: Some("me".to_owned()), ..request() }), "me");
        assert_eq!(hostname(&request()).len(), HOSTNAME_DIGITS);
        assert!(!hostname(&RunRequest { network: Network::Host, ..request() }).is_empty());
    }
}
