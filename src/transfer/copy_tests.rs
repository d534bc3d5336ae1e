//! The COPY and ADD table: each case names the line of observed.md it shows.

use std::fmt::Write as _;

use super::super::forest::Forest;
use super::super::select::select;
use super::*;
use crate::plan::graph::{Chmod, Copy, CopySource, From};

#[path = "add_tests.rs"]
mod add;
#[path = "copy_properties.rs"]
mod properties;

type Memory = Forest<Vec<u8>>;

/// One COPY in the making.
struct Case {
    op: Copy,
    from: Memory,
    onto: Memory,
    inline: Vec<(String, String)>,
    unpack: bool,
}

fn case(sources: &[&str], destination: &str, from: impl FnOnce(&mut Memory)) -> Case {
    let path = |path: &&str| CopySource::Path { from: From::Scratch, path: (*path).to_owned(), unpack: false };
    let mut tree = Memory::default();
    from(&mut tree);
    Case {
        op: Copy {
            sources: sources.iter().map(path).collect(),
            destination: destination.to_owned(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            add: false,
            labels: Vec::new(),
        },
        from: tree,
        onto: Memory::default(),
        inline: Vec::new(),
        unpack: false,
    }
}

impl Case {
    fn onto(mut self, onto: impl FnOnce(&mut Memory)) -> Self {
        onto(&mut self.onto);
        self
    }
    fn op(mut self, change: impl FnOnce(&mut Copy)) -> Self {
        change(&mut self.op);
        self
    }
    fn add(mut self) -> Self {
        (self.op.add, self.unpack) = (true, true);
        self
    }
    fn inline(mut self, name: &str, content: &str) -> Self {
        self.inline.push((name.to_owned(), content.to_owned()));
        self
    }

    fn run(&self) -> Result<(Copied, Vec<u8>), TransferError> {
        let mut sources = Vec::new();
        for source in &self.op.sources {
            if let CopySource::Path { path, .. } = source {
                sources.push(Source::Path { tree: &self.from, path, unpack: self.unpack, label: "context" });
            }
        }
        for (name, content) in &self.inline {
            sources.push(Source::Inline { name, content: content.as_bytes() });
        }
        let selections =
            sources.iter().enumerate().map(|(i, s)| select(&self.op, i, s)).collect::<Result<Vec<_>, _>>()?;
        let mut spool = Vec::new();
        let copied = copy(&self.op, &sources, selections, &self.onto, 99, &mut spool)?;
        Ok((copied, spool))
    }

    fn text(&self) -> String {
        let (copied, spool) = match self.run() {
            Ok(done) => done,
            Err(e) => return e.to_string(),
        };
        let mut out = String::new();
        for planned in &copied.entries {
            let Entry { path, kind, meta } = &planned.entry;
            let Meta { mode, uid, gid, mtime, xattrs } = meta;
            let kept = if planned.kept { "=" } else { "" };
            write!(out, "{kept}{path} ").expect("string");
            match kind {
                Kind::File { size, content } => {
                    let bytes = self.content(planned, &spool);
                    assert_eq!((*size, *content), (bytes.len() as u64, Blake3::of(&bytes)), "{path}");
                    write!(out, "f {}", String::from_utf8_lossy(&bytes).escape_debug()).expect("string");
                }
                Kind::Directory { opaque } => out.push_str(if *opaque { "D" } else { "d" }),
                Kind::Symlink(to) => write!(out, "l {}", String::from_utf8_lossy(to)).expect("string"),
                Kind::Hardlink(to) => {
                    writeln!(out, "h {to}").expect("string");
                    continue;
                }
                Kind::CharDevice(major, minor) => write!(out, "c {major},{minor}").expect("string"),
                Kind::BlockDevice(major, minor) => write!(out, "b {major},{minor}").expect("string"),
                Kind::Fifo => out.push('p'),
                Kind::Whiteout => out.push('w'),
            }
            write!(out, " {mode:o} {uid}:{gid}").expect("string");
            if *mtime != 0 {
                write!(out, " @{mtime}").expect("string");
            }
            for (name, value) in xattrs {
                write!(out, " {}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)).expect("string");
            }
            out.push('\n');
        }
        out
    }

    fn content(&self, planned: &Planned, spool: &[u8]) -> Vec<u8> {
        let mut sources: Vec<Source<'_>> = Vec::new();
        for source in &self.op.sources {
            if let CopySource::Path { path, .. } = source {
                sources.push(Source::Path { tree: &self.from, path, unpack: self.unpack, label: "context" });
            }
        }
        for (name, content) in &self.inline {
            sources.push(Source::Inline { name, content: content.as_bytes() });
        }
        let spool = spool.to_vec();
        let open = move |offset: u64, len: u64| -> io::Result<Box<dyn Read + Send>> {
            Ok(Box::new(io::Cursor::new(spool[offset as usize..(offset + len) as usize].to_vec())))
        };
        let mut bytes = Vec::new();
        let reader = planned.open(&sources, &self.onto, &open).expect("opens").expect("a file");
        { reader }.read_to_end(&mut bytes).expect("reads");
        bytes
    }

    #[track_caller]
    fn gives(&self, expected: &str) {
        let expected: Vec<_> = expected.trim().lines().map(str::trim).collect();
        assert_eq!(self.text().trim_end(), expected.join("\n"));
    }

    #[track_caller]
    fn fails(&self, expected: &str) {
        assert_eq!(self.run().err().map(|e| e.to_string()).as_deref(), Some(expected));
    }

    fn facts(&self) -> String {
        let facts = self.run().expect("works").0.facts;
        let lines: Vec<_> = facts.0.iter().map(|(path, fact)| format!("{path}: {fact}")).collect();
        lines.join("\n")
    }
}

fn sample(t: &mut Memory) {
    t.file("d/a", "A", 0o644).file("d/sub/b", "B", 0o600).file("d/sub/deep/c", "C", 0o644).file("d/.hid", "h", 0o644);
    t.file("f1", "1", 0o644).file("f2", "2", 0o644);
}

#[test]
fn a_file_to_a_name_or_into_a_directory() {
    case(&["f1"], "/x", sample).gives("/x f 1 644 0:0");
    case(&["f1"], "/x/", sample).gives("/x d 755 0:0 @99\n/x/f1 f 1 644 0:0");
    case(&["f1"], "/x/.", sample).gives("/x d 755 0:0 @99\n/x/f1 f 1 644 0:0");
    case(&["f1"], "/", sample).gives("/f1 f 1 644 0:0");
    case(&["f1"], "/a/b", sample).gives("/a d 755 0:0 @99\n/a/b f 1 644 0:0");
    case(&["f1"], "/have", sample)
        .onto(|t| _ = t.dir("have", 0o711, 5, 6))
        .gives("=/have d 711 5:6\n/have/f1 f 1 644 0:0");
    case(&["d/../f1"], "/x", sample).gives("/x f 1 644 0:0");
    case(&["../f1"], "/x", sample).gives("/x f 1 644 0:0");
}

#[test]
fn observed_19_wildcards_may_match_nothing_plain_paths_may_not() {
    case(&["nope*"], "/w/", sample).gives("");
    case(&["d*/where/*"], "/w/", sample).gives("");
    case(&["no/where/*"], "/w/", sample).fails("lstat /no/where: no such file or directory");
    case(&["nope"], "/w/", sample).fails("failed to calculate checksum of ref context: \"/nope\": not found");
    let dangling = |t: &mut Memory| _ = t.symlink("dl", "/gone").symlink("dir/dl", "gone");
    case(&["d*l"], "/w/", dangling).fails("failed to calculate checksum of ref context: \"/dl\": not found");
    case(&["dl"], "/w/", dangling).fails("failed to calculate checksum of ref context: \"/dl\": not found");
    case(&["dir"], "/w/", dangling).gives("/w d 755 0:0 @99\n/w/dl l gone 777 0:0");
}

#[test]
fn missing_sources_are_explained() {
    let help = |path: &str| {
        let case = case(&[path], "/x", |t| {
            sample(t);
            t.file("README.md", "", 0o644).file("src/main.rs", "", 0o644).symlink("l", "f9");
        });
        case.run().err().and_then(|e| e.help())
    };
    assert_eq!(help("readme.md").as_deref(), Some("there is /README.md; names are case-sensitive"));
    assert_eq!(help("src/main.sr").as_deref(), Some("did you mean /src/main.rs?"));
    assert_eq!(help("f3").as_deref(), Some("did you mean one of /f1, /f2?"));
    assert_eq!(help("l").as_deref(), Some("it is a symbolic link to /f9, which does not exist"));
    assert_eq!(help("f1/x").as_deref(), Some("/f1 is not a directory"));
    let elsewhere = "sources are looked for in the build context only, whether they begin with / or ../";
    assert_eq!(help("something/else").as_deref(), Some(elsewhere));
    assert_eq!(help("scr").as_deref(), Some("did you mean /src?"), "neighbours swapped");
}

#[test]
fn observed_20_wildcards() {
    let tree = |t: &mut Memory| {
        sample(t);
        t.file("g1", "g", 0o644).file("d/zz", "z", 0o644);
    };
    case(&["d/s?b/*"], "/w/", tree).gives("/w d 755 0:0 @99\n/w/b f B 600 0:0\n/w/c f C 644 0:0");
    case(&["[a-f]1"], "/w/", tree).gives("/w d 755 0:0 @99\n/w/f1 f 1 644 0:0");
    case(&["*/sub/b"], "/w/", tree).gives("/w d 755 0:0 @99\n/w/b f B 600 0:0");
    case(&["d/[!a]*"], "/w/", tree).gives("/w d 755 0:0 @99\n/w/a f A 644 0:0");
    case(&["d/[^s]*"], "/w/", tree).gives("/w d 755 0:0 @99\n/w/.hid f h 644 0:0\n/w/a f A 644 0:0\n/w/zz f z 644 0:0");
    case(&["d/*"], "/w", tree).fails("cannot copy to non-directory: /w");
    case(&["d/*"], "/w/", tree).gives(
        "/w d 755 0:0 @99\n/w/.hid f h 644 0:0\n/w/a f A 644 0:0\n/w/b f B 600 0:0\n/w/deep d 755 0:0
        /w/deep/c f C 644 0:0\n/w/zz f z 644 0:0",
    );
    case(&["a[b"], "/w/", tree).fails("\"a[b\": syntax error in pattern");
}

#[test]
fn observed_21_the_last_of_several_wins() {
    case(&["f1", "f2"], "/x", sample).gives("/x f 2 644 0:0");
    case(&["f2", "f1"], "/x", sample).gives("/x f 1 644 0:0");
    case(&["f1", "f2"], "/x/", sample).gives("/x d 755 0:0 @99\n/x/f1 f 1 644 0:0\n/x/f2 f 2 644 0:0");
    case(&["d", "f1"], "/x", sample).gives(
        "/x d 755 0:0 @99\n/x/.hid f h 644 0:0\n/x/a f A 644 0:0\n/x/f1 f 1 644 0:0\n/x/sub d 755 0:0
        /x/sub/b f B 600 0:0\n/x/sub/deep d 755 0:0\n/x/sub/deep/c f C 644 0:0",
    );
    case(&["f1", "d"], "/x", sample).fails("cannot copy to non-directory: /x");
}

#[test]
fn observed_22_directories_give_their_content() {
    let tree = |t: &mut Memory| _ = t.dir("p", 0o700, 0, 0).dir("p/in", 0o750, 0, 0).file("p/in/f", "f", 0o644);
    case(&["p"], "/new", tree).gives("/new d 755 0:0 @99\n/new/in d 750 0:0\n/new/in/f f f 644 0:0");
    case(&["p"], "/have", tree)
        .onto(|t| _ = t.dir("have", 0o711, 5, 6).dir("have/in", 0o777, 7, 7))
        .gives("=/have d 711 5:6\n/have/in d 750 0:0\n/have/in/f f f 644 0:0");
    case(&["p/in"], "/deep/er/in", tree)
        .gives("/deep d 755 0:0 @99\n/deep/er d 755 0:0 @99\n/deep/er/in d 755 0:0 @99\n/deep/er/in/f f f 644 0:0");
    // An empty directory onto one that is there changes nothing.
    case(&["e"], "/have", |t| _ = t.dir("e", 0o700, 0, 0)).onto(|t| _ = t.dir("have", 0o711, 5, 6)).gives("");
    case(&["e"], "/new", |t| _ = t.dir("e", 0o700, 0, 0)).gives("/new d 755 0:0 @99");
    case(&["."], "/", tree).gives("/p d 700 0:0\n/p/in d 750 0:0\n/p/in/f f f 644 0:0");
}

#[test]
fn observed_23_links_named_as_sources_are_followed() {
    let tree = |t: &mut Memory| {
        sample(t);
        t.symlink("lf", "/f1").symlink("ld", "d/sub").symlink("out", "../../../f2").symlink("in/rel", "x");
    };
    case(&["lf"], "/x/", tree).gives("/x d 755 0:0 @99\n/x/lf f 1 644 0:0");
    case(&["l*"], "/x/", tree)
        .gives("/x d 755 0:0 @99\n/x/b f B 600 0:0\n/x/deep d 755 0:0\n/x/deep/c f C 644 0:0\n/x/lf f 1 644 0:0");
    case(&["out"], "/x", tree).gives("/x f 2 644 0:0");
    case(&["ld/b"], "/x", tree).gives("/x f B 600 0:0");
    case(&["ld/deep/*"], "/x/", tree).gives("/x d 755 0:0 @99\n/x/c f C 644 0:0");
    case(&["in"], "/x", tree).gives("/x d 755 0:0 @99\n/x/rel l x 777 0:0");
}

#[test]
fn observed_24_links_at_the_destination() {
    case(&["f2"], "/dang", sample).onto(|t| _ = t.symlink("dang", "/later")).gives("/later f 2 644 0:0");
    case(&["f2"], "/dang/", sample)
        .onto(|t| _ = t.symlink("dang", "/later/x"))
        .gives("/later d 755 0:0 @99\n/later/x d 755 0:0 @99\n/later/x/f2 f 2 644 0:0");
    case(&["f2"], "/l/x", sample)
        .onto(|t| _ = t.symlink("l", "../../real").dir("real", 0o700, 1, 2))
        .gives("=/real d 700 1:2\n/real/x f 2 644 0:0");
    case(&["d/sub"], "/l", sample)
        .onto(|t| _ = t.symlink("l", "real").dir("real", 0o700, 1, 2))
        .gives("=/real d 700 1:2\n/real/b f B 600 0:0\n/real/deep d 755 0:0\n/real/deep/c f C 644 0:0");
    // Deeper in the tree links are not followed.
    case(&["d"], "/t", sample).onto(|t| _ = t.symlink("t/sub", "/real")).fails("cannot copy to non-directory: /t/sub");
    case(&["d/sub"], "/t", sample)
        .onto(|t| _ = t.symlink("t/b", "/real"))
        .gives("=/t d 755 0:0\n/t/b f B 600 0:0\n/t/deep d 755 0:0\n/t/deep/c f C 644 0:0");
    case(&["f1"], "/t", sample).onto(|t| _ = t.symlink("t/f1", "/real")).gives("=/t d 755 0:0\n/t/f1 f 1 644 0:0");
    case(&["f1"], "/l", sample).onto(|t| _ = t.symlink("l", "l")).fails("/l: too many links");
}

#[test]
fn observed_25_kinds_do_not_replace_each_other_except_with_link() {
    let file = |t: &mut Memory| _ = t.file("s/a", "file", 0o644);
    case(&["s"], "/t", file)
        .onto(|t| _ = t.dir("t/a", 0o755, 0, 0))
        .fails("cannot replace to directory /t/a with file");
    case(&["d"], "/t", sample).onto(|t| _ = t.file("t", "", 0o644)).fails("cannot copy to non-directory: /t");
    case(&["d"], "/t", sample).onto(|t| _ = t.file("t/sub", "", 0o644)).fails("cannot copy to non-directory: /t/sub");
    case(&["d"], "/t/", sample).onto(|t| _ = t.file("t", "", 0o644)).fails("mkdir /t: not a directory");
    case(&["f1"], "/t/x", sample).onto(|t| _ = t.file("t", "", 0o644)).fails("mkdir /t: not a directory");
    case(&["s"], "/t", file)
        .onto(|t| _ = t.dir("t/a", 0o755, 0, 0))
        .op(|op| op.link = true)
        .gives("/t d 755 0:0 @99\n/t/a f file 644 0:0");
}

#[test]
fn observed_26_owners() {
    let passwd = |t: &mut Memory| {
        t.file("etc/passwd", "bob:x:1500:1600::/:\n", 0o644).file("etc/group", "g:x:7:\n", 0o644);
    };
    let chown = |text: &str| case(&["f1"], "/n/x", sample).onto(passwd).op(|op| op.chown = Some(text.to_owned()));
    chown("bob").gives("/n d 755 1500:1600 @99\n/n/x f 1 644 1500:1600");
    chown("bob:g").gives("/n d 755 1500:7 @99\n/n/x f 1 644 1500:7");
    chown("1500").gives("/n d 755 1500:1500 @99\n/n/x f 1 644 1500:1500");
    chown(":33").gives("/n d 755 0:33 @99\n/n/x f 1 644 0:33");
    chown("nosuch:nosuchg").gives("/n d 755 0:0 @99\n/n/x f 1 644 0:0");
    let scratch = |text: &str| case(&["f1"], "/x", sample).op(|op| op.chown = Some(text.to_owned()));
    scratch("root").gives("/x f 1 644 0:0");
    scratch("bob").fails("invalid user index: -1: scratch has no /etc/passwd to look up \"bob\" in");
    chown("bob")
        .op(|op| op.link = true)
        .fails("invalid user index: -1: a --link layer has no /etc/passwd to look up \"bob\" in");
    // Whoever has files, but not these, has no such user; nobody's name is no name to look up.
    scratch("bob:g").onto(|t| _ = t.file("a", "", 0o644)).gives("/x f 1 644 0:0");
    scratch(":33").gives("/x f 1 644 0:33");
    scratch("33:").gives("/x f 1 644 33:0");
    chown("bob:").gives("/n d 755 1500:0 @99\n/n/x f 1 644 1500:0");
    chown("7:8").op(|op| op.link = true).gives("/n d 755 7:8 @99\n/n/x f 1 644 7:8");
}

#[test]
fn observed_27_modes() {
    let octal = |sources: &[&str], to: &str, mode| {
        case(sources, to, |t| {
            sample(t);
            t.file("l/x", "x", 0o644).symlink("l/s", "x");
        })
        .op(|op| op.chmod = Some(Chmod::Octal(mode)))
    };
    octal(&["f1"], "/n1/n2/f", 0o640).gives("/n1 d 640 0:0 @99\n/n1/n2 d 640 0:0 @99\n/n1/n2/f f 1 640 0:0");
    octal(&["d/sub"], "/t", 0o705)
        .gives("/t d 705 0:0 @99\n/t/b f B 705 0:0\n/t/deep d 705 0:0\n/t/deep/c f C 705 0:0");
    octal(&["f1"], "/s/su", 0o4755).gives("/s d 755 0:0 @99\n/s/su f 1 4755 0:0");
    octal(&["l"], "/dl/", 0o755).gives("/dl d 755 0:0 @99\n/dl/s l x 777 0:0\n/dl/x f x 755 0:0");
    let words = |text: &str| {
        let case = case(&["d/sub"], "/n/t", sample);
        case.op(|op| op.chmod = Some(Chmod::Symbolic(text.to_owned())))
    };
    words("go+w").gives(
        "/n d 755 0:0 @99\n/n/t d 755 0:0 @99\n/n/t/b f B 622 0:0\n/n/t/deep d 777 0:0\n/n/t/deep/c f C 666 0:0",
    );
    words("bad").fails("invalid chmod parameter: 'bad'. it should be octal string and between 0 and 07777");
}

#[test]
fn observed_28_exclude_is_relative_to_each_source() {
    let tree = |t: &mut Memory| {
        t.file("d/a", "a", 0o644).file("d/r.md", "r", 0o644).file("d/sub/s.md", "s", 0o644);
        t.file("d/sub/keep.md", "k", 0o644).file("d/sub/o", "o", 0o644).file("f1", "1", 0o644).file("f2", "2", 0o644);
    };
    let excluding = |source: &str, patterns: &[&str]| {
        let patterns = patterns.iter().map(|p| (*p).to_owned()).collect();
        case(&[source], "/e/", tree).op(|op| op.exclude = patterns)
    };
    excluding("d", &["*.md", "sub"]).gives("/e d 755 0:0 @99\n/e/a f a 644 0:0");
    excluding("d", &["**/*.md"]).gives("/e d 755 0:0 @99\n/e/a f a 644 0:0\n/e/sub d 755 0:0\n/e/sub/o f o 644 0:0");
    excluding("d", &["sub/**", "!sub/keep.md"])
        .gives("/e d 755 0:0 @99\n/e/a f a 644 0:0\n/e/r.md f r 644 0:0\n/e/sub d 755 0:0\n/e/sub/keep.md f k 644 0:0");
    excluding("f*", &["f1"]).gives("/e d 755 0:0 @99\n/e/f1 f 1 644 0:0\n/e/f2 f 2 644 0:0");
    excluding("d", &["!"]).fails("invalid pattern: illegal exclusion pattern: \"!\"");
}

#[test]
fn observed_29_parents_keep_owner_and_mode() {
    let tree = |t: &mut Memory| {
        t.dir("x", 0o755, 5, 6).dir("x/y", 0o700, 5, 6).file("x/y/z", "1", 0o644).file("x/y/q.md", "q", 0o644);
        t.file("a/b/c", "c", 0o644).file("a/b/c.md", "m", 0o644).symlink("ln", "x");
    };
    let parents = |source: &str, to: &str| case(&[source], to, tree).op(|op| op.parents = true);
    parents("/x/y/z", "/out/")
        .gives("/out d 755 0:0 @99\n/out/x d 755 5:6\n/out/x/y d 700 5:6\n/out/x/y/z f 1 644 0:0");
    parents("/x/./y", "/o/").gives("/o d 755 0:0 @99\n/o/y d 700 5:6\n/o/y/q.md f q 644 0:0\n/o/y/z f 1 644 0:0");
    parents("./x/y/z", "/o").gives("/o d 755 0:0 @99\n/o/x d 755 5:6\n/o/x/y d 700 5:6\n/o/x/y/z f 1 644 0:0");
    parents("**/*.md", "/o/").gives(
        "/o d 755 0:0 @99\n/o/a d 755 0:0\n/o/a/b d 755 0:0\n/o/a/b/c.md f m 644 0:0\n/o/x d 755 5:6
        /o/x/y d 700 5:6\n/o/x/y/q.md f q 644 0:0",
    );
    parents("a/*/c", "/o/").gives("/o d 755 0:0 @99\n/o/a d 755 0:0\n/o/a/b d 755 0:0\n/o/a/b/c f c 644 0:0");
    parents("nope*", "/o/").gives("/o d 755 0:0 @99");
    parents("x/nope", "/o/").fails("failed to calculate checksum of ref context: \"/x/nope\": not found");
    parents("ln/y", "/o/").fails("failed to calculate checksum of ref context: \"/ln/y\": not found");
    parents("ln/./y/z", "/o/").gives("/o d 755 0:0 @99\n/o/y d 700 5:6\n/o/y/z f 1 644 0:0");
    parents("*/./c", "/o/").gives("/o d 755 0:0 @99");
    // A directory that is there gets the mode, but keeps its owner.
    parents("x/y/z", "/o")
        .onto(|t| _ = t.dir("o/x", 0o777, 1, 2))
        .gives("=/o d 755 0:0\n/o/x d 755 1:2\n/o/x/y d 700 5:6\n/o/x/y/z f 1 644 0:0");
}

#[test]
fn observed_30_link_starts_from_nothing() {
    let onto = |t: &mut Memory| _ = t.dir("t", 0o711, 3, 3).symlink("l", "/t");
    case(&["f1"], "/t/", sample).onto(onto).op(|op| op.link = true).gives("/t d 755 0:0 @99\n/t/f1 f 1 644 0:0");
    case(&["f1"], "/l/x", sample).onto(onto).op(|op| op.link = true).gives("/l d 755 0:0 @99\n/l/x f 1 644 0:0");
    let facts = case(&["f1"], "/l/x", sample).onto(onto).op(|op| op.link = true).facts();
    assert!(!facts.contains("symlink"), "the parent is not looked at: {facts}");
}

#[test]
fn observed_31_33_stages_keep_everything() {
    let tree = |t: &mut Memory| {
        let meta = |mode, uid, gid, mtime| Meta { mode, uid, gid, mtime, ..Meta::default() };
        let kind = |text: &[u8]| Kind::File { size: text.len() as u64, content: Blake3::of(text) };
        let mut capable = meta(0o4711, 11, 12, 1_115_269_505);
        capable.xattrs.insert(b"security.capability".to_vec(), b"cap".to_vec());
        capable.xattrs.insert(b"user.conf".to_vec(), b"hi".to_vec());
        capable.xattrs.insert(b"security.selinux".to_vec(), b"no".to_vec());
        t.put("t/f", kind(b"x"), capable, b"x".to_vec(), None);
        t.put("t/d", Kind::Directory { opaque: false }, meta(0o1770, 13, 14, 5), Vec::new(), None);
        t.put("t/l", Kind::Symlink(b"f".to_vec()), meta(0o777, 15, 16, 6), Vec::new(), None);
        t.put("t/p", Kind::Fifo, meta(0o644, 0, 0, 7), Vec::new(), None);
        t.put("t/b", Kind::BlockDevice(8, 1), meta(0o660, 0, 6, 8), Vec::new(), None);
    };
    case(&["t"], "/o", tree).gives(
        "/o d 755 0:0 @99\n/o/b b 8,1 660 0:6 @8\n/o/d d 1770 13:14 @5
        /o/f f x 4711 11:12 @1115269505 security.capability=cap user.conf=hi
        /o/l l f 777 15:16 @6\n/o/p p 644 0:0 @7",
    );
    case(&["t/f", "t/l", "t/p"], "/o/", tree).op(|op| op.chown = Some("33".to_owned())).gives(
        "/o d 755 33:33 @99
        /o/f f x 4711 33:33 @1115269505 security.capability=cap user.conf=hi
        /o/l f x 4711 33:33 @1115269505 security.capability=cap user.conf=hi
        /o/p p 644 33:33 @7",
    );
}

#[test]
fn observed_32_hard_links_within_one_source() {
    let tree = |t: &mut Memory| {
        let kind = Kind::File { size: 4, content: Blake3::of(b"data") };
        for path in ["a", "b", "d/c"] {
            let meta = Meta { mode: 0o644, ..Meta::default() };
            t.put(path, kind.clone(), meta, b"data".to_vec(), Some(Link(1, 7)));
        }
        t.file("other", "o", 0o644);
    };
    case(&["a", "b"], "/sep/", tree).gives("/sep d 755 0:0 @99\n/sep/a f data 644 0:0\n/sep/b f data 644 0:0");
    case(&["."], "/all/", tree).gives(
        "/all d 755 0:0 @99\n/all/a f data 644 0:0\n/all/b h /all/a\n/all/d d 755 0:0\n/all/d/c h /all/a
        /all/other f o 644 0:0",
    );
    // The first name is overwritten by a later source: the next one becomes the file.
    case(&[".", "other"], "/all/a", tree).op(|op| op.exclude = vec!["other".to_owned()]).gives(
        "/all d 755 0:0 @99\n/all/a d 755 0:0 @99\n/all/a/a f data 644 0:0\n/all/a/b h /all/a/a
        /all/a/d d 755 0:0\n/all/a/d/c h /all/a/a\n/all/a/other f o 644 0:0",
    );
    case(&["a", "b"], "/x", tree).gives("/x f data 644 0:0");
}

#[test]
fn heredocs_are_files_of_now() {
    case(&["f1"], "/d/", sample)
        .inline("one.txt", "text\n")
        .gives("/d d 755 0:0 @99\n/d/f1 f 1 644 0:0\n/d/one.txt f text\\n 644 0:0 @99");
    case(&[], "/x", sample).inline("E", "a").op(|op| op.chmod = Some(Chmod::Octal(0o755))).gives("/x f a 755 0:0 @99");
}

#[test]
fn facts_are_what_was_asked() {
    let case = case(&["d/sub"], "/l/t", sample)
        .onto(|t| _ = t.symlink("l", "real").dir("real/t", 0o711, 1, 2).file("real/unrelated", "", 0o644))
        .op(|op| op.chown = Some("bob".to_owned()))
        .onto(|t| _ = t.file("etc/passwd", "bob:x:1:2::/:\n", 0o644));
    let passwd = Blake3::of(b"bob:x:1:2::/:\n");
    let expected = format!(
        "/etc: directory\n/etc/passwd: file {passwd}\n/l: symlink to real\n/real: directory 0755 0:0\n\
         /real/t: directory 0711 1:2\n/real/t/b: absent\n/real/t/deep: absent"
    );
    assert_eq!(case.facts(), expected);
    let with_more = case.onto(|t| _ = t.file("real/more", "", 0o644).dir("elsewhere", 0o755, 0, 0));
    assert_eq!(with_more.facts(), expected);
}

#[test]
fn observed_55_what_a_selection_s_digest_depends_on() {
    let digest = |source: &str, change: &dyn Fn(&mut Memory)| {
        let case = case(&[source], "/x", |t| {
            sample(t);
            change(t);
        });
        let source = Source::Path { tree: &case.from, path: source, unpack: false, label: "context" };
        select(&case.op, 0, &source).expect("found").digest
    };
    let same: &dyn Fn(&mut Memory) = &|_| {};
    let other_time: &dyn Fn(&mut Memory) = &|t| {
        let kind = Kind::File { size: 1, content: Blake3::of(b"A") };
        t.put("d/a", kind, Meta { mode: 0o644, mtime: 77, ..Meta::default() }, b"A".to_vec(), None);
    };
    let before = digest("d", same);
    assert_eq!(before, digest("d", other_time), "mtime");
    assert_eq!(before, digest("d/", &|t| _ = t.file("unrelated", "", 0o644)), "unrelated file, slash");
    assert_eq!(before, digest("d", &|t| _ = t.dir("d", 0o700, 0, 0)), "the directory named itself");
    assert_ne!(before, digest("d", &|t| _ = t.file("d/a", "a", 0o644)), "content");
    assert_ne!(before, digest("d", &|t| _ = t.file("d/a", "A", 0o755)), "mode");
    assert_ne!(before, digest("d", &|t| _ = t.file("d/new", "", 0o644)), "new name");
    assert_ne!(before, digest("d", &|t| _ = t.dir("d/empty", 0o755, 0, 0)), "new empty directory");
    let links = |to: &'static str| digest("d", &move |t| _ = t.symlink("d/l", to));
    assert_ne!(links("a"), links("b"), "link target");
    assert_eq!(digest("f1", same), digest("other/f1", &|t| _ = t.file("other/f1", "1", 0o644)), "path above");
    assert_ne!(digest("f1", same), digest("f9", &|t| _ = t.file("f9", "1", 0o644)), "name");
}
