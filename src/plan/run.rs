//! RUN to a step: command, heredocs, environment, mounts.

use crate::diagnostic::Diagnostic;
use crate::dockerfile::mount as written;
use crate::dockerfile::{ast, words};
use crate::plan::config;
use crate::plan::env::Env;
use crate::plan::fold::{Here, StageFold};
use crate::plan::graph::{Copy, InlineFile, Mount, MountKind, Network, Op, Run};
use crate::plan::mount::{self, Surroundings};
use crate::plan::name;
use crate::plan::outline::Seen;
use crate::plan::scope;
use crate::plan::site::Site;
use crate::plan::stage::Tree;
use crate::plan::wanted::Wanted;
use crate::source::Span;

/// Where the script of a `#!` heredoc appears.
const SCRIPTS: &str = "/dev/pipes";

/// The command of a RUN with its heredocs worked in.
struct Command {
    argv: Vec<String>,
    script: Option<InlineFile>,
    /// What the shown name adds to the line.
    remark: String,
}

impl StageFold<'_, '_> {
    /// Turns a RUN into a step.
    pub(crate) fn run(&mut self, here: &Here<'_>, run: &ast::Run, reads: &[Tree]) -> Result<(), Diagnostic> {
        if let Some(device) = run.devices.first() {
            let text = "RUN --device is not supported: rbuild has no CDI devices".to_owned();
            return Err(here.at(device).fault("unsupported-device", text));
        }
        let command = self.command(run);
        if command.argv.is_empty() {
            let text = "failed to marshal LLB definition: arguments are required".to_owned();
            return Err(here.site.fault("no-command", text));
        }
        let mounts = self.mounts(here, run, reads)?;
        let network = self.network(here, run)?;
        let insecure = insecure(here, run)?;
        let masked: Vec<&str> = mounts
            .iter()
            .filter_map(|mount| match &mount.kind {
                MountKind::Secret { env, .. } => env.as_deref(),
                MountKind::Bind { .. } | MountKind::Cache { .. } | MountKind::Tmpfs { .. } | MountKind::Ssh { .. } => {
                    None
                }
            })
            .collect();
        let shown = format!("{}{}", here.instruction.original.trim(), command.remark);
        let shown = name::of_run(&shown, self.escape(), &self.state.env, &masked);
        let name = self.names.next(&shown, here.triggered, &self.state.env);
        let history = format!("RUN {} # buildkit", history_text(&command.argv, &self.state.declared, &self.state.env));
        let options = self.fold.options;
        let sites = run.mounts.iter().map(|word| here.at(word));
        let shown_trees = mounts.iter().zip(sites).filter_map(|(mount, site)| {
            let (path, from) = mount.kind.shown()?;
            Some((Copy::plain(from.clone(), path), site))
        });
        let shown_trees: Vec<_> = shown_trees.collect();
        let op = Op::Run(Run {
            argv: command.argv,
            env: self.state.env.pairs(),
            args: self.state.env.arg_names(),
            proxy_env: options.proxy_env(),
            cwd: self.current_dir(),
            user: self.state.config.config.user.clone(),
            mounts,
            network,
            insecure,
            script: command.script,
            hostname: options.hostname().to_owned(),
            add_hosts: options.add_hosts.clone(),
            shm_size: options.shm_size,
            ulimits: options.ulimits.clone(),
        });
        let step = self.push(here, op, name.clone());
        let wanted = shown_trees.into_iter();
        let wanted = wanted.filter_map(|(copy, site)| Wanted::new(copy, name.clone(), step, site.clone(), vec![site]));
        self.fold.wanted.extend(wanted);
        self.remember(history, Some(step));
        Ok(())
    }

    /// A heredoc that is the whole command is the script; otherwise the shell gets the text and the bodies.
    fn command(&self, run: &ast::Run) -> Command {
        let config = &self.state.config;
        let text = match (&run.command, run.heredocs.first()) {
            (ast::CommandLine::Exec(words), _) => {
                return Command { argv: words.clone(), script: None, remark: String::new() };
            }
            (ast::CommandLine::Shell(text), None) => {
                let argv = config::with_shell(config, text);
                return Command { argv, script: None, remark: String::new() };
            }
            (ast::CommandLine::Shell(text), Some(first)) if is_lone_heredoc(text) => {
                let remark = name::of_heredoc(&first.content);
                if first.content.starts_with("#!") && config.os != "windows" {
                    let argv = config::with_shell(config, &format!("{SCRIPTS}/{}", first.name));
                    let script = InlineFile { name: first.name.clone(), content: first.content.clone().into_bytes() };
                    return Command { argv, script: Some(script), remark };
                }
                return Command { argv: config::with_shell(config, &first.content), script: None, remark };
            }
            (ast::CommandLine::Shell(text), Some(_)) => text,
        };
        let bodies = run.heredocs.iter().map(|heredoc| format!("\n{}{}", heredoc.content, heredoc.name));
        let argv = config::with_shell(config, &bodies.fold(text.clone(), |text, body| text + &body));
        Command { argv, script: None, remark: String::new() }
    }

    fn mounts(&mut self, here: &Here<'_>, run: &ast::Run, reads: &[Tree]) -> Result<Vec<Mount>, Diagnostic> {
        let mut mounts = Vec::new();
        let mut ssh_index = 0;
        let workdir = self.current_dir();
        for (word, tree) in run.mounts.iter().zip(reads) {
            let site = here.at(word);
            let from = self.fold.tree(tree, &site, || {
                let name = written::from_of(&word.text).unwrap_or_default();
                let plain = written::parse(&word.text, &mut |value| Ok(value.to_owned()));
                let target = plain.map(|mount| mount.target).unwrap_or_default();
                format!(
                    "cannot mount from stage {name:?} to {target:?}, stage needs to be defined before current command"
                )
            })?;
            let around =
                Surroundings { workdir: &workdir, cache_namespace: self.fold.options.cache_namespace(), ssh_index };
            let (escape, env) = (self.escape(), self.state.env.clone());
            let mut expansions = Vec::new();
            let parsed = mount::resolve(&word.text, from, &around, &mut |value| {
                let expanded = words::expand(value, &|name| env.get(name).map(str::to_owned), escape)?;
                let text = expanded.text.clone();
                expansions.push(expanded);
                Ok(text)
            });
            for expanded in expansions {
                self.lint_undefined(here, &expanded);
            }
            let mount = parsed.map_err(|text| {
                let without_target = text == mount::TARGET_IS_ROOT;
                let fault = part_of_mount(here, word, &text).unwrap_or(site).fault("bad-mount", text);
                if without_target { fault.with_help("a mount needs a target=, and / cannot be one") } else { fault }
            })?;
            let seen = &mut self.fold.seen[self.index];
            match &mount.kind {
                MountKind::Secret { id, required, .. } => {
                    Seen::secret(&mut seen.secrets, id, *required, here.site.lines);
                }
                MountKind::Ssh { id, required, .. } => Seen::secret(&mut seen.ssh, id, *required, here.site.lines),
                MountKind::Cache { id, .. } => Seen::secret(&mut seen.caches, id, false, here.site.lines),
                MountKind::Bind { .. } | MountKind::Tmpfs { .. } => {}
            }
            ssh_index += usize::from(matches!(mount.kind, MountKind::Ssh { .. }));
            mounts.push(mount);
        }
        Ok(mounts)
    }

    fn network(&self, here: &Here<'_>, run: &ast::Run) -> Result<Network, Diagnostic> {
        match run.network.as_ref().map(|word| (word, word.text.as_str())) {
            None | Some((_, "default")) => Ok(self.fold.options.network),
            Some((_, "none")) => Ok(Network::None),
            Some((_, "host")) => Ok(Network::Host),
            Some((word, other)) => Err(here.at(word).fault("bad-network", format!("invalid network mode {other:?}"))),
        }
    }
}

fn insecure(here: &Here<'_>, run: &ast::Run) -> Result<bool, Diagnostic> {
    match run.security.as_ref().map(|word| (word, word.text.as_str())) {
        None | Some((_, "sandbox")) => Ok(false),
        Some((_, "insecure")) => Ok(true),
        Some((word, other)) => Err(here.at(word).fault("bad-security", format!("security {other:?} is not valid"))),
    }
}

/// Whether the command consists of one heredoc marker: `<<EOF`, `3<<-"E F"`.
fn is_lone_heredoc(text: &str) -> bool {
    let rest = text.trim().trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = rest.strip_prefix("<<") else { return false };
    let rest = rest.strip_prefix('-').unwrap_or(rest).trim_start();
    if rest.is_empty() || rest.contains('<') {
        return false;
    }
    scope::expand_split(rest, '\\', &Env::default()).is_ok_and(|words| words.len() == 1)
}

/// `|2 a=1 b=2 /bin/sh -c …`: the declared ARGs with the values the process sees, then argv.
fn history_text(argv: &[String], declared: &[(String, Option<String>)], env: &Env) -> String {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for (name, value) in declared {
        let value = env.get(name).or(value.as_deref()).unwrap_or_default();
        match pairs.iter_mut().find(|(known, _)| known == name) {
            Some(pair) => pair.1 = value,
            None => pairs.push((name, value)),
        }
    }
    let count = (!pairs.is_empty()).then(|| format!("|{}", pairs.len()));
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={value}"));
    let words: Vec<String> = count.into_iter().chain(pairs).chain(argv.iter().cloned()).collect();
    words.join(" ")
}

/// The field of a mount that is to blame, where the text is written without quotes and without an escape.
fn part_of_mount(here: &Here<'_>, word: &ast::Word, fault: &str) -> Option<Site> {
    let field = written::faulty_field(&word.text, fault)?;
    let Span { start, end } = word.span;
    let plain = (end - start) as usize == word.text.len() && !here.triggered;
    plain.then(|| here.site.at(Span::new(start as usize + field.start, start as usize + field.end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_heredoc_is_one_word() {
        for yes in ["<<EOF", "<<-EOF", "3<<'E F'", "<< EOF", "<<\"x\""] {
            assert!(is_lone_heredoc(yes), "{yes}");
        }
        for no in ["<<EOF cat", "cat <<EOF", "<<A <<B", "<<", "python3 <<EOF"] {
            assert!(!is_lone_heredoc(no), "{no}");
        }
    }
}
