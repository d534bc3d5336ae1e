//! The command line as typed: clap's types, and how a line without a subcommand becomes a build.
//!
//! Decides nothing and reads nothing but the words it is given; [`super::request`] turns them into decisions. A flag that is
//! not here is an error. What several commands share is in [`Globals`].

#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "the texts of --help")]

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Arg, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::args_build::{BuildArgs, ExplainRuleArgs, GraphArgs, PlanArgs};
use super::args_image::{
    HistoryArgs, ImagesArgs, ImportArgs, InspectArgs, LoadArgs, PullArgs, PushArgs, RmiArgs, SaveArgs, TagArgs,
};
use super::args_registry::{CopyArgs, LoginArgs, LogoutArgs, ManifestCommand, RegistryCommand};
use super::args_run::{RunArgs, ShellArgs};
use super::args_store::{CacheCommand, CompletionsArgs, DuArgs, ExplainArgs, PruneArgs};

/// The whole command line.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    about = "Builds container images from Dockerfiles: one binary, no daemon.",
    disable_help_subcommand = true,
    args_override_self = true,
    styles = STYLES,
)]
pub struct Cli {
    /// For all commands.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Task,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Options of every command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Everywhere")]
pub struct Globals {
    /// Where rbuild keeps images, layers and caches
    ///
    /// Default: $RBUILD_ROOT, else /var/lib/rbuild for root and $XDG_DATA_HOME/rbuild (~/.local/share/rbuild) for others.
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// Never let the store grow beyond this, e.g. 50GB (default: $RBUILD_STORE_MAX, else no limit)
    #[arg(long, global = true, value_name = "SIZE")]
    pub store_max: Option<String>,

    /// Say more: expanded warnings, and the chain of causes of an error
    #[arg(short = 'D', long, global = true)]
    pub debug: bool,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Task {
    /// Build an image from a Dockerfile
    #[command(visible_alias = "b")]
    Build(Box<BuildArgs>),
    /// Show what a build would do, without doing it
    Plan(Box<PlanArgs>),
    /// Write the build's graph for Graphviz or Mermaid, as a picture or as JSON
    Graph(Box<GraphArgs>),
    /// Say why steps of the last build were run again
    Explain(ExplainArgs),

    /// List images
    Images(ImagesArgs),
    /// Print an image's details as JSON
    Inspect(InspectArgs),
    /// Show how an image was made
    History(HistoryArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Remove names of images, and images that have no name left
    Rmi(RmiArgs),
    /// Run a command in an image
    Run(Box<RunArgs>),
    /// Open a shell in an image, or where a step of an earlier build ended
    Shell(ShellArgs),

    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Send an image to a registry
    Push(PushArgs),
    /// Write images to a tar archive
    Save(SaveArgs),
    /// Read images from a tar archive
    Load(LoadArgs),
    /// Make an image from a tar archive of a root directory
    Import(ImportArgs),

    /// Keep name and password of a registry, after trying them
    Login(LoginArgs),
    /// Forget name and password of a registry
    Logout(LogoutArgs),
    /// List what a registry has
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Look at manifests in registries, or join them to an index
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// Copy an image or index from registry to registry, past the store
    Copy(CopyArgs),

    /// Show what the store takes
    Du(DuArgs),
    /// Free space in the store
    Prune(PruneArgs),
    /// List or remove cache mounts
    #[command(subcommand)]
    Cache(CacheCommand),

    /// Tell what this machine lets rbuild do, and what would unlock more
    Doctor,
    /// Explain a lint rule of --check; without a name, list the rules
    ExplainRule(ExplainRuleArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the version
    Version,
}

/// The commands as `--help` groups them.
const GROUPS: &[(&str, &[&str])] = &[
    ("Building", &["build", "plan", "graph", "explain"]),
    ("Images", &["images", "inspect", "history", "tag", "rmi", "run", "shell"]),
    ("Moving images", &["pull", "push", "save", "load", "import"]),
    ("Registries", &["login", "logout", "registry", "manifest", "copy"]),
    ("Store", &["du", "prune", "cache"]),
    ("Other", &["doctor", "explain-rule", "completions", "version"]),
];

/// clap's description of the whole command line; also what completions are made from.
pub fn command() -> Command {
    let command = as_docker_takes_values(Cli::command());
    let help = overview(&command);
    command.override_help(help)
}

/// What comes after an option that needs a value is its value, whatever it looks like, as in Docker: `--target -a`.
fn as_docker_takes_values(command: Command) -> Command {
    let takes_any = |arg: Arg| {
        let takes_next = arg.get_action().takes_values() && !arg.is_positional() && !arg.is_require_equals_set();
        if takes_next { arg.allow_hyphen_values(true) } else { arg }
    };
    command.mut_args(takes_any).mut_subcommands(as_docker_takes_values)
}

/// Parses a command line, program name first. The error prints itself: help and version are errors to clap, too.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let argv = with_subcommand(argv.into_iter().collect(), &command);
    Cli::from_arg_matches(&command.try_get_matches_from_mut(argv)?)
}

/// The top-level help: clap cannot group subcommands by itself.
fn overview(command: &Command) -> String {
    let mut text = String::from(
        "Builds container images from Dockerfiles: one binary, no daemon.\n\n\
         Usage: rbuild [OPTIONS] CONTEXT\n       rbuild COMMAND [OPTIONS] ...\n\n\
         A line without a command is a build: \"rbuild -t app .\" is \"rbuild build -t app .\". To build a directory that is\n\
         called like a command, write \"./plan\" instead of \"plan\".\n",
    );
    for (heading, names) in GROUPS {
        let _ = writeln!(text, "\n{heading}:");
        for name in *names {
            let about = command.find_subcommand(name).and_then(Command::get_about).map(ToString::to_string);
            let _ = writeln!(text, "  {name:<12} {}", about.unwrap_or_default());
        }
    }
    text += "\nEverywhere:\n";
    for arg in
        command.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| long != "help" && long != "version"))
    {
        let short = arg.get_short().map_or("   ".to_owned(), |short| format!("-{short},"));
        let value = arg.get_value_names().filter(|_| arg.get_action().takes_values()).and_then(|names| names.first());
        let value = value.map_or(String::new(), |name| format!(" {name}"));
        let long = format!("--{}{value}", arg.get_long().unwrap_or_default());
        let _ = writeln!(text, "  {short} {long:<18} {}", arg.get_help().map(ToString::to_string).unwrap_or_default());
    }
    text += "  -h, --help             Print help; \"rbuild COMMAND --help\" has every option of a command\n";
    text += "  -V, --version          Print the version\n";
    text += "\nExamples:\n  \
             rbuild -t app:1.0 .                          build; the image lands in rbuild's own store\n  \
             rbuild run --rm app:1.0                      try it\n  \
             rbuild -t registry.example.org/app --push .  build and push\n  \
             rbuild -o type=oci,dest=app.tar .            build into a file\n  \
             rbuild --explain -t app:1.0 .                build and say why steps were run again\n";
    text
}

/// The same line with `build` put in if it names no command, and `--flag=true` of switches in the form clap knows.
fn with_subcommand(mut argv: Vec<OsString>, command: &Command) -> Vec<OsString> {
    let build = command.find_subcommand("build").expect("declared above");
    // The form that is easy to guess beside `--check`.
    if let Some(at) = argv.iter().position(|word| word == "--explain-rule") {
        argv[at] = "explain-rule".into();
    }
    let switches: Vec<&clap::Arg> = command.get_arguments().chain(build.get_arguments()).collect();
    let word = first_word(&argv, &switches);
    if let Some(at) = word.filter(|at| argv[*at] == "help") {
        argv.remove(at);
        argv.push("--help".into());
        return argv;
    }
    let at = match word {
        Some(at) if argv[at].to_str().is_some_and(|word| command.find_subcommand(word).is_some()) => at,
        None if argv.len() < 2
            || argv[1..].iter().all(|word| ["-h", "--help", "-V", "--version"].iter().any(|w| word == w)) =>
        {
            return argv;
        }
        None | Some(_) => {
            argv.insert(1, "build".into());
            1
        }
    };
    if argv[at].to_str().is_some_and(|name| name == "build" || name == "b") {
        plain_switches(&mut argv, &switches);
    }
    argv
}

/// The first word that is neither a flag nor a flag's value.
fn first_word(argv: &[OsString], known: &[&clap::Arg]) -> Option<usize> {
    let takes_next = |arg: Option<&&clap::Arg>| {
        arg.is_some_and(|arg| arg.get_action().takes_values() && !arg.is_require_equals_set())
    };
    let mut at = 1;
    while at < argv.len() {
        let word = argv[at].to_string_lossy();
        if let Some(long) = word.strip_prefix("--") {
            if long.is_empty() {
                return (at + 1 < argv.len()).then_some(at + 1);
            }
            let by_name = known.iter().find(|arg| arg.get_long() == Some(long));
            at += 1 + usize::from(takes_next(by_name));
        } else if let Some(shorts) = word.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            let by_name = |c| known.iter().find(move |arg| arg.get_short() == Some(c));
            // The first one that takes a value takes the rest of the word, or the next word if there is no rest.
            let taker = shorts.char_indices().find(|(_, c)| takes_next(by_name(*c)));
            at += 1 + usize::from(taker.is_some_and(|(index, c)| index + c.len_utf8() == shorts.len()));
        } else {
            return Some(at);
        }
    }
    None
}

/// Docker lets switches carry a value, and the last one counts: `--no-cache=true`, `--rm=false`.
fn plain_switches(argv: &mut Vec<OsString>, known: &[&clap::Arg]) {
    let mut at = 1;
    while at < argv.len() && argv[at] != "--" {
        let word = argv[at].to_string_lossy().into_owned();
        let typed = word.strip_prefix("--").and_then(|rest| rest.split_once('='));
        let switch = typed.filter(|(name, _)| {
            known.iter().any(|arg| arg.get_long() == Some(name) && !arg.get_action().takes_values())
        });
        match switch.map(|(name, value)| (name, go_bool(value))) {
            Some((name, Ok(true))) => argv[at] = format!("--{name}").into(),
            Some((name, Ok(false))) => {
                let on = OsString::from(format!("--{name}"));
                let mut index = 0;
                argv.retain(|word| {
                    index += 1;
                    index - 1 > at || (index - 1 != at && *word != on)
                });
                at = 0;
            }
            Some((_, Err(_))) | None => {}
        }
        at += 1;
    }
}

/// The texts Go's flag packages take for a bool.
pub(super) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(line: &str) -> Result<Cli, clap::Error> {
        parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
    }

    #[test]
    fn a_value_may_look_like_an_option() {
        let args = build("rbuild --target -a --build-arg --no-cache --label -x=--y -t -z .");
        assert_eq!(args.source.target.as_deref(), Some("-a"));
        assert_eq!(args.source.build_arg, ["--no-cache"]);
        assert_eq!(
            (args.source.label.as_slice(), args.tag.as_slice()),
            (&["-x=--y".to_owned()][..], &["-z".to_owned()][..])
        );
        assert!(!args.no_cache && cli("rbuild build . --target").is_err());
        assert_eq!(build("rbuild --pull --target a .").pull.as_deref(), Some("always"));
    }

    fn build(line: &str) -> Box<BuildArgs> {
        match cli(line).unwrap_or_else(|error| panic!("{line}: {error}")).command {
            Task::Build(args) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn clap_is_content() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_line_without_command_is_a_build() {
        for (line, context, tags) in [
            ("rbuild .", ".", &[][..]),
            ("rbuild build .", ".", &[]),
            ("rbuild b .", ".", &[]),
            ("rbuild -t build .", ".", &["build"]),
            ("rbuild -tapp .", ".", &["app"]),
            ("rbuild -t app images/x", "images/x", &["app"]),
            ("rbuild ./images", "./images", &[]),
            ("rbuild --tag app --tag b . --no-cache", ".", &["app", "b"]),
            ("rbuild -q -t images -", "-", &["images"]),
            ("rbuild -qt images -D .", ".", &["images"]),
            ("rbuild --root /x -D build -t a .", ".", &["a"]),
            ("rbuild --root images .", ".", &[]),
            ("rbuild --pull .", ".", &[]),
            ("rbuild build build", "build", &[]),
        ] {
            let args = build(line);
            assert_eq!(
                (args.source.context.as_str(), args.tag.as_slice()),
                (context, &tags.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..]),
                "{line}"
            );
        }
    }

    #[test]
    fn known_commands_are_commands() {
        assert!(matches!(cli("rbuild images").expect("parses").command, Task::Images(_)));
        assert!(matches!(cli("rbuild -D images").expect("parses").command, Task::Images(_)));
        assert!(matches!(cli("rbuild --root /x version").expect("parses").command, Task::Version));
        assert_eq!(cli("rbuild --root /x images").expect("parses").globals.root, Some("/x".into()));
        assert_eq!(cli("rbuild images --root /x").expect("parses").globals.root, Some("/x".into()));
    }

    #[test]
    fn switches_may_carry_values() {
        for (line, no_cache) in [
            ("rbuild --no-cache .", true),
            ("rbuild --no-cache=true .", true),
            ("rbuild --no-cache=0 .", false),
            ("rbuild --no-cache --no-cache=false .", false),
            ("rbuild --no-cache=false --no-cache .", true),
            ("rbuild --no-cache --no-cache .", true),
            ("rbuild --no-cache --target a --target b .", true),
            ("rbuild --no-cache --push=f .", true),
        ] {
            assert_eq!(build(line).no_cache, no_cache, "{line}");
        }
        assert!(cli("rbuild --no-cache=maybe .").is_err());
    }

    #[test]
    fn unknown_flags_and_missing_context_are_errors() {
        for line in ["rbuild --frobnicate .", "rbuild -t app", "rbuild . .", "rbuild images --frobnicate", "rbuild run"]
        {
            assert!(cli(line).is_err(), "{line}");
        }
    }

    #[test]
    fn help_is_a_command_too() {
        let help = |line: &str| cli(line).expect_err("help is an error to clap").to_string();
        assert_eq!(help("rbuild help"), help("rbuild --help"));
        assert_eq!(help("rbuild help images"), help("rbuild images --help"));
        assert_eq!(help("rbuild"), help("rbuild --help"));
        assert!(help("rbuild -V").starts_with("rbuild "));
    }

    #[test]
    fn completions_know_the_options() {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let Task::Completions(args) = cli(&format!("rbuild completions {shell}")).expect("parses").command else {
                panic!("{shell}");
            };
            assert!(String::from_utf8_lossy(&args.script()).contains("no-cache-filter"), "{shell}");
        }
    }

    #[test]
    fn every_command_is_in_the_overview() {
        let command = Cli::command();
        let grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let declared: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        assert_eq!(grouped, declared);
        insta::with_settings!({ snapshot_path => super::super::TESTDATA, prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("help", overview(&command));
        });
    }

    #[test]
    fn help_of_build() {
        let text = cli("rbuild build --help").expect_err("help is an error to clap").to_string();
        insta::with_settings!({ snapshot_path => super::super::TESTDATA, prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("help-build", text);
        });
    }
}
