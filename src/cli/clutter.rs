//! ContextMissingIgnore: directories that no image needs, that a Dockerfile copies and `.dockerignore` does not exclude.
//!
//! Looks at names in the context's directory, and at sizes only of what it reports. Opens no file.

use std::path::Path;

use crate::context::Ignore;
use crate::dockerfile::ast::{Dockerfile, Instruction, InstructionKind, Lint};
use crate::dockerfile::lint::is_skipped;
use crate::dockerfile::mount;
use crate::ui::decimal_size;

const RULE: &str = "ContextMissingIgnore";
/// How far below the context's root is looked.
const MAX_DEPTH: usize = 4;
/// How many entries are looked at, when looking and when measuring: a note is not worth more time.
const MAX_ENTRIES: usize = 200_000;
/// How many directories one note names.
const MAX_NAMES: usize = 5;

/// A directory found, as the path below the context.
struct Found {
    path: String,
    bytes: u64,
    files: usize,
    /// There are more files than were counted.
    more: bool,
}

/// Notes on the instructions that take clutter in.
pub(super) fn notes(file: &Dockerfile, context: &Path, ignore: Option<&Ignore>) -> Vec<Lint> {
    let check = file.directives.check.as_ref();
    let copying: Vec<(&Instruction, Vec<String>)> = file
        .stages
        .iter()
        .flat_map(|stage| &stage.instructions)
        .filter(|instruction| !is_skipped(RULE, check, instruction.check.as_ref()))
        .map(|instruction| (instruction, sources(instruction)))
        .filter(|(_, sources)| !sources.is_empty())
        .collect();
    if copying.is_empty() {
        return Vec::new();
    }
    let mut search = Search { ignore, found: Vec::new(), left: MAX_ENTRIES };
    search.look(context, "", 0);
    let mut notes = Vec::new();
    for (instruction, sources) in copying {
        let taken: Vec<&Found> =
            search.found.iter().filter(|found| sources.iter().any(|s| covers(s, &found.path))).collect();
        if taken.is_empty() {
            continue;
        }
        let name = |found: &&Found| {
            let more = if found.more { "more than " } else { "" };
            let files = if found.files == 1 { "1 file".to_owned() } else { format!("{} files", found.files) };
            format!("{} ({more}{}, {files})", found.path, decimal_size(found.bytes))
        };
        let mut names: Vec<String> = taken.iter().take(MAX_NAMES).map(name).collect();
        if taken.len() > MAX_NAMES {
            names.push(format!("{} more", taken.len() - MAX_NAMES));
        }
        let keyword = instruction.keyword.to_uppercase();
        let message = format!("This {keyword} takes in {}, which .dockerignore does not exclude", names.join(", "));
        notes.push(Lint { rule: RULE, message, lines: instruction.lines });
    }
    notes
}

/// The paths of the main context an instruction reads, cleaned; `""` is all of it.
fn sources(instruction: &Instruction) -> Vec<String> {
    let texts: Vec<String> = match &instruction.kind {
        InstructionKind::Copy(copy) | InstructionKind::Add(copy) if copy.from.is_none() && copy.exclude.is_empty() => {
            copy.sources.iter().map(|word| word.text.clone()).collect()
        }
        InstructionKind::Run(run) => run
            .mounts
            .iter()
            .filter_map(|word| mount::parse(&word.text, &mut |value| Ok(value.to_owned())).ok())
            .filter(|mount| mount.kind == mount::MountKind::Bind && mount.from.is_empty())
            .map(|mount| mount.source)
            .collect(),
        _ => Vec::new(),
    };
    let clean = |text: &str| {
        let parts: Vec<&str> = text.trim_matches('"').split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        parts.join("/")
    };
    texts.iter().filter(|text| !text.contains('$') && !text.contains("..")).map(|text| clean(text)).collect()
}

/// Whether copying `source` takes in `path`.
fn covers(source: &str, path: &str) -> bool {
    source.is_empty()
        || source == "*"
        || path == source
        || path.strip_prefix(source).is_some_and(|r| r.starts_with('/'))
}

struct Search<'a> {
    ignore: Option<&'a Ignore>,
    found: Vec<Found>,
    left: usize,
}

impl Search<'_> {
    fn look(&mut self, dir: &Path, below: &str, depth: usize) {
        let Ok(entries) = fs_err::read_dir(dir) else { return };
        let mut dirs: Vec<String> = entries
            .take(self.left)
            .filter_map(Result::ok)
            .inspect(|_| self.left = self.left.saturating_sub(1))
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        dirs.sort();
        for name in dirs {
            let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
            if self.ignore.is_some_and(|ignore| ignore.patterns().matches(path.as_bytes())) {
                continue;
            }
            if is_clutter(dir, &name) {
                let mut found = Found { path, bytes: 0, files: 0, more: false };
                measure(&dir.join(&name), &mut found);
                self.found.push(found);
            } else if depth + 1 < MAX_DEPTH {
                self.look(&dir.join(&name), &path, depth + 1);
            }
        }
    }
}

/// Whether a directory is made by tools and not by people; some names count only beside what gives them away.
fn is_clutter(parent: &Path, name: &str) -> bool {
    match name {
        ".git" | "node_modules" | "__pycache__" | ".tox" | ".gradle" | ".terraform" | ".next" | ".cache" => true,
        "target" => parent.join("Cargo.toml").exists(),
        ".venv" | "venv" => parent.join(name).join("pyvenv.cfg").exists(),
        _ => false,
    }
}

fn measure(dir: &Path, found: &mut Found) {
    let Ok(entries) = fs_err::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        if found.files >= MAX_ENTRIES {
            found.more = true;
            return;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => measure(&entry.path(), found),
            Ok(kind) if kind.is_file() => {
                found.files += 1;
                found.bytes += entry.metadata().map_or(0, |meta| meta.len());
            }
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    fn found(dockerfile: &str, ignore: Option<&str>) -> Vec<String> {
        let dir = tempfile::tempdir().expect("temp dir");
        for path in ["node_modules/a/b.js", "web/node_modules/c.js", ".git/HEAD", "src/target/x", "src/main.js"] {
            let path = dir.path().join(path);
            fs_err::create_dir_all(path.parent().expect("has one")).expect("writable");
            fs_err::write(path, "12345").expect("writable");
        }
        let file = crate::dockerfile::parse(Source::new("Dockerfile", dockerfile)).expect("parses");
        let ignore = ignore.map(|text| Ignore::parse(".dockerignore", text.as_bytes()).expect("valid"));
        let notes = notes(&file, dir.path(), ignore.as_ref());
        notes.into_iter().map(|note| format!("{} {}", note.lines.first, note.message)).collect()
    }

    #[test]
    fn what_is_copied_and_not_excluded_is_named_with_its_size() {
        let all = "This COPY takes in .git (5B, 1 file), node_modules (5B, 1 file), web/node_modules (5B, 1 file), which .dockerignore does not exclude";
        assert_eq!(found("FROM a\nCOPY . /x\n", None), [format!("2 {all}")]);
        let web = "This COPY takes in web/node_modules (5B, 1 file), which .dockerignore does not exclude";
        assert_eq!(found("FROM a\nCOPY ./web/ /x\nCOPY src /src\n", None), [format!("2 {web}")]);
        assert_eq!(found("FROM a\nCOPY . /x\n", Some(".git\nnode_modules\n")), [format!("2 {web}")]);
        assert_eq!(found("FROM a\nCOPY . /x\n", Some(".git\n**/node_modules\n")), [""; 0]);
        assert_eq!(found("FROM a\nCOPY --from=b . /x\n# check=skip=ContextMissingIgnore\nCOPY . /y\n", None), [""; 0]);
        let bind = "2 This RUN takes in web/node_modules (5B, 1 file), which .dockerignore does not exclude";
        assert_eq!(found("FROM a\nRUN --mount=source=web,target=/w make\n", None), [bind]);
    }
}
