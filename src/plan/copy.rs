//! COPY and ADD to a step: destination, modes, and what each source is.

use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast;
use crate::oci::reference::digest_fault;
use crate::plan::facts::TimeSource;
use crate::plan::fold::{Here, StageFold};
use crate::plan::graph::{Chmod, Copy, CopySource, From, GitSource, InlineFile, Op};
use crate::plan::remote::{self, Source};
use crate::plan::stage::Tree;
use crate::plan::wanted::Wanted;
use crate::plan::{lint, name, paths, scope};
use crate::tar::entry::LayerPath;

/// The options of an instruction with their words expanded.
struct Options {
    chown: Option<String>,
    /// As written, for the history.
    chmod: Option<String>,
    checksum: Option<String>,
    keep_git_dir: Option<bool>,
    unpack: Option<bool>,
}

impl StageFold<'_, '_> {
    /// Turns COPY or ADD into a step.
    pub(crate) fn copy(
        &mut self,
        here: &Here<'_>,
        copy: &ast::Copy,
        reads: &[Tree],
        add: bool,
    ) -> Result<(), Diagnostic> {
        let written = copy.from.as_ref().map(|word| word.text.clone()).unwrap_or_default();
        let label = self.fold.stages.list[self.index].label.clone();
        let later =
            || format!("cannot copy from stage {written:?}, it needs to be defined before current stage {label:?}");
        let from = self.fold.tree(&reads[0], &here.site, later)?;
        let options = Options {
            chown: self.expand_option(here, copy.chown.as_ref())?,
            chmod: self.expand_option(here, copy.chmod.as_ref())?,
            checksum: self.expand_option(here, copy.checksum.as_ref())?,
            keep_git_dir: copy.keep_git_dir,
            unpack: copy.unpack,
        };
        let mut paths = Vec::new();
        for word in &copy.sources {
            paths.push(self.expand(here, word)?);
        }
        let destination = self.expand(here, &copy.destination)?;
        let fault = |word: Option<&ast::Word>| {
            let site = word.map_or_else(|| here.site.clone(), |word| here.at(word));
            move |text: String| site.fault("bad-copy", text)
        };
        let chmod = options.chmod.as_deref().map(parse_chmod).transpose().map_err(fault(copy.chmod.as_ref()))?;
        check_checksum(&options, &paths).map_err(fault(copy.checksum.as_ref()))?;
        let mut sources = Vec::new();
        for (path, word) in paths.iter().zip(&copy.sources) {
            let fault = |text: String| here.at(word).fault("bad-copy", text);
            let source = source(path, &from, &options, add).map_err(fault)?;
            if copy.from.is_none() && matches!(source, CopySource::Path { .. }) {
                let (options, lines) = (self.fold.options, here.site.lines);
                lint::ignored_source(&mut self.linter(here), options, path, add, lines);
            }
            sources.push(source);
        }
        let files = self.heredocs(here, copy)?;
        let history = history_text(copy, &options, &paths, &destination, add);
        let labels = paths.iter().cloned().chain(files.iter().map(|file| format!("<<{}", file.name))).collect();
        sources.extend(files.into_iter().map(CopySource::Inline));
        let shown = name::of_files(here.instruction.original.trim(), self.escape(), &self.state.env);
        let name = self.names.next(&shown, here.triggered, &self.state.env);
        let op = Copy {
            sources,
            destination: paths::destination(&self.current_dir(), &destination),
            chown: options.chown,
            // With a mode BuildKit falls back to a plain copy.
            link: copy.link && chmod.is_none(),
            chmod,
            parents: copy.parents,
            exclude: copy.exclude.iter().map(|word| word.text.clone()).collect(),
            add,
            labels,
        };
        let sites = copy.sources.iter().map(|word| here.at(word)).collect();
        let step = self.push(here, Op::Copy(op.clone()), name.clone());
        self.fold.wanted.extend(Wanted::new(op, name, step, here.site.clone(), sites));
        self.remember(history, Some(step));
        Ok(())
    }

    /// An empty value counts as none.
    fn expand_option(&mut self, here: &Here<'_>, word: Option<&ast::Word>) -> Result<Option<String>, Diagnostic> {
        let Some(word) = word else { return Ok(None) };
        Ok(Some(self.expand(here, word)?).filter(|text| !text.is_empty()))
    }

    fn heredocs(&mut self, here: &Here<'_>, copy: &ast::Copy) -> Result<Vec<InlineFile>, Diagnostic> {
        let mut files = Vec::new();
        for heredoc in &copy.heredocs {
            let content = if heredoc.expand {
                let expanded = scope::expand_body(&heredoc.content, &self.state.env);
                let expanded = expanded.map_err(|text| here.site.fault("expansion", text))?;
                self.lint_undefined(here, &expanded);
                expanded.text
            } else {
                heredoc.content.clone()
            };
            let name = file_name(&heredoc.name).map_err(|text| here.site.fault("heredoc-name", text))?;
            files.push(InlineFile { name, content: content.into_bytes() });
        }
        Ok(files)
    }
}

/// The delimiter as the name of a file at the top of nothing, which is where BuildKit writes it before it is copied.
fn file_name(delimiter: &str) -> Result<String, String> {
    let path = LayerPath::clean(delimiter);
    match path.components().count() {
        0 => Err(format!("open {delimiter:?}: is a directory: the delimiter of a heredoc is the name of its file")),
        1 => Ok(String::from_utf8_lossy(path.name()).into_owned()),
        _ => Err(format!("open {path}: no such file or directory: the delimiter of a heredoc is the name of its file")),
    }
}

/// What an ADD of this one source takes from elsewhere, by its expanded words; `None` if that is a path.
pub(crate) fn remote_source(
    text: &str,
    checksum: Option<String>,
    keep_git_dir: Option<bool>,
) -> Result<Option<TimeSource>, String> {
    let checksum = checksum.filter(|text| !text.is_empty());
    let options = Options { chown: None, chmod: None, checksum, keep_git_dir, unpack: None };
    match source(text, &From::Scratch, &options, true)? {
        CopySource::Path { .. } | CopySource::Inline(_) => Ok(None),
        CopySource::Http { url, checksum, .. } => {
            check_checksum(&options, &[text.to_owned()])?;
            Ok(Some(TimeSource::Http { url, checksum }))
        }
        CopySource::Git(git) => Ok(Some(TimeSource::Git(git))),
    }
}

/// What one expanded source text is.
fn source(text: &str, from: &From, options: &Options, add: bool) -> Result<CopySource, String> {
    match remote::source(text)? {
        Source::Path => {
            Ok(CopySource::Path { from: from.clone(), path: text.to_owned(), unpack: options.unpack.unwrap_or(add) })
        }
        Source::Http { .. } if !add => Err("source can't be a URL for COPY".to_owned()),
        Source::Git(_) if !add => Err("source can't be a git ref for COPY".to_owned()),
        Source::Http { name } => Ok(CopySource::Http {
            url: text.to_owned(),
            name,
            checksum: options.checksum.clone(),
            unpack: options.unpack.unwrap_or(false),
        }),
        Source::Git(git) => {
            if let (Some(flag), Some(query)) = (options.keep_git_dir, git.keep_git_dir)
                && flag != query
            {
                return Err("inconsistent keep-git-dir configuration".to_owned());
            }
            if let (Some(flag), Some(query)) = (&options.checksum, &git.checksum)
                && flag != query
            {
                return Err(format!("checksum mismatch {flag:?} != {query:?}"));
            }
            Ok(CopySource::Git(GitSource {
                remote: git.remote,
                reference: git.reference,
                subdir: git.subdir,
                keep_git_dir: git.keep_git_dir.or(options.keep_git_dir).unwrap_or(false),
                checksum: git.checksum.or_else(|| options.checksum.clone()),
                submodules: git.submodules.unwrap_or(true),
                fetch_by_commit: git.fetch_by_commit,
                commit_times: git.commit_times,
            }))
        }
    }
}

fn check_checksum(options: &Options, paths: &[String]) -> Result<(), String> {
    let Some(checksum) = &options.checksum else { return Ok(()) };
    let [path] = paths else { return Err("checksum can't be specified for multiple sources".to_owned()) };
    match remote::source(path)? {
        Source::Path => Err("checksum requires HTTP(S) or Git sources".to_owned()),
        Source::Http { .. } => checksum
            .parse::<rbuild_cache::digest::Sha256>()
            .map(drop)
            .map_err(|_| format!("{}: {checksum}", digest_fault(checksum))),
        Source::Git(_) => Ok(()),
    }
}

/// Octal up to 07777, or symbolic.
fn parse_chmod(text: &str) -> Result<Chmod, String> {
    let bad = || format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
    let octal = if text.starts_with('+') { None } else { u32::from_str_radix(text, 8).ok() };
    if let Some(mode) = octal {
        return if mode <= 0o7777 { Ok(Chmod::Octal(mode)) } else { Err(bad()) };
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(bad());
    }
    if is_symbolic(text) { Ok(Chmod::Symbolic(text.to_owned())) } else { Err("invalid syntax".to_owned()) }
}

/// Clauses `[ugoa]*([-+=][rwxXstugo]*)+` joined by commas.
fn is_symbolic(text: &str) -> bool {
    text.split(',').all(|clause| {
        let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        actions.starts_with(['-', '+', '=']) && actions.chars().all(|c| "-+=rwxXstugo".contains(c))
    })
}

/// Only these options appear, as in BuildKit: `--parents`, `--chown`, `--chmod`.
fn history_text(copy: &ast::Copy, options: &Options, paths: &[String], destination: &str, add: bool) -> String {
    let mut words = vec![if add { "ADD" } else { "COPY" }.to_owned()];
    if copy.parents {
        words.push("--parents".to_owned());
    }
    words.extend(options.chown.iter().map(|owner| format!("--chown={owner}")));
    words.extend(options.chmod.iter().map(|mode| format!("--chmod={mode}")));
    words.extend(paths.iter().cloned());
    words.extend(copy.heredocs.iter().map(|heredoc| format!("<<{}", heredoc.name)));
    words.push(destination.to_owned());
    words.push("# buildkit".to_owned());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delimiters_that_are_file_names() {
        for (delimiter, name) in [("EOF", "EOF"), ("/abs", "abs"), ("./a", "a"), ("a.b c", "a.b c")] {
            assert_eq!(file_name(delimiter).as_deref(), Ok(name), "{delimiter:?}");
        }
        for bad in ["", ".", "..", "/", "a/b"] {
            assert!(file_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn modes_are_octal_or_symbolic() {
        assert_eq!(parse_chmod("0644"), Ok(Chmod::Octal(0o644)));
        for good in ["u=rwX,go=rX", "+x", "a+t,u-s", "g=u", "u+r-w"] {
            assert_eq!(parse_chmod(good), Ok(Chmod::Symbolic(good.into())), "{good}");
        }
        for bad in ["10000", "9", "8x"] {
            let message =
                format!("invalid chmod parameter: '{bad}'. it should be octal string and between 0 and 07777");
            assert_eq!(parse_chmod(bad), Err(message));
        }
        for bad in ["", "u", "x", "u=q", "u=rw,", "z+x"] {
            assert!(parse_chmod(bad).is_err(), "{bad:?}");
        }
    }
}
