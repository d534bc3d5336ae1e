//! The parser takes any bytes and any size: faults instead of panics, time proportional to length.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use rbuild::dockerfile::lint::lint;
use rbuild::dockerfile::mount;
use rbuild::dockerfile::words::{WordError, expand, expand_for_show, expand_heredoc};
use rbuild::dockerfile::{parse, parse_trigger};
use rbuild::source::Source;

/// Far above what these take, far below what anything quadratic would.
const PATIENCE: Duration = Duration::from_secs(20);

fn in_time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = work();
    assert!(begin.elapsed() < PATIENCE, "{what} took {:?}", begin.elapsed());
    result
}

fn read(text: String) -> Result<usize, String> {
    parse(Source::new("Dockerfile", text))
        .map(|file| file.stages[0].instructions.len())
        .map_err(|faults| faults[0].message())
}

#[test]
fn many_instructions() {
    let text = format!("FROM a\n{}", "RUN echo \"$x\" | cat\nENV a=b c=\"d e\"\n".repeat(50_000));
    assert_eq!(in_time("100,000 instructions", || read(text)), Ok(100_000));
    let text = format!("FROM a\n{}", "RUNN x\n".repeat(100_000));
    assert!(in_time("100,000 faults", || read(text)).is_err());
}

#[test]
fn long_lines() {
    let long = "x".repeat(10 << 20);
    let fault = "dockerfile line greater than max allowed size of 65535";
    assert_eq!(in_time("a line of 10 MB", || read(format!("FROM a\nRUN {long}"))), Err(fault.into()));
    for start in
        ["RUN ", "ENV a=\"", "RUN [\"", "COPY --from=", "BOGUS", "LABEL ", "ARG '", "RUN <<", "HEALTHCHECK CMD "]
    {
        let text = format!("FROM a\n{start}{}", "  x=y z \\\n".repeat(200_000));
        let _ = in_time(start, || read(text));
    }
    let text = format!("FROM a\nRUN x \\\n{}", "# c\n\n".repeat(500_000));
    assert_eq!(in_time("a million lines in a continuation", || read(text)), Ok(1));
}

#[test]
fn deep_nesting() {
    let triggers = format!("FROM a\n{}RUN x", "ONBUILD \\\n".repeat(200_000));
    let chained = "dockerfile parse error on line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
    assert_eq!(in_time("nested ONBUILD", || read(triggers)), Err(chained.into()));
    let arrays = format!("FROM a\nRUN {}", "[\\\n".repeat(300_000));
    assert_eq!(in_time("nested arrays", || read(arrays)), Ok(1));
    let env = |_: &str| None;
    for depth in [10_000, 200_000] {
        let word = format!("{}end{}", "${N:-x".repeat(depth), "}".repeat(depth));
        let expanded = in_time("nested variables", || expand(&word, &env, '\\')).unwrap();
        assert_eq!(expanded.text, format!("{}end", "x".repeat(depth)));
        assert_eq!(expand_for_show(&word, &env, '\\'), word);
        assert!(in_time("open variables", || expand(&"${N:-".repeat(depth), &env, '\\')).is_err());
        assert!(in_time("open patterns", || expand(&"${N/\"".repeat(depth), &env, '\\')).is_err());
    }
}

/// Values in values multiply; found by the fuzz target for expansion.
#[test]
fn values_have_an_end() {
    let million = "x".repeat(1 << 20);
    let env = |name: &str| match name {
        "P" => Some("/usr/local/lib/*.so".to_owned()),
        "M" => Some(million.clone()),
        _ => None,
    };
    let too_long = |word: &str| {
        let fault = in_time("values in values", || expand(word, &env, '\\')).unwrap_err();
        assert!(fault.reason.contains("more than 16777216 bytes"), "{fault}");
    };
    too_long(&format!("{}z{}", "${P///".repeat(40), "}".repeat(40)));
    too_long(&format!("${{M//x/{}}}", r"\$0".repeat(1000)));
    too_long(&"$M".repeat(40));
    assert_eq!(expand(&"$M".repeat(10), &env, '\\').unwrap().text.len(), 10 << 20);
}

#[test]
fn many_heredocs() {
    let text = format!("FROM a\n{}", "COPY <<A <<B /x/\na\nA\nb\nB\n".repeat(20_000));
    assert_eq!(in_time("40,000 heredocs", || read(text)), Ok(20_000));
    let text = format!("FROM a\nRUN {}\n", "<<A \\\n".repeat(100_000));
    assert_eq!(in_time("100,000 unterminated heredocs", || read(text)), Err("unterminated heredoc".into()));
}

/// Lines that reach further into the parser than random bytes do.
fn dockerfile_like() -> impl Strategy<Value = String> {
    let keyword = prop::sample::select(vec![
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "ENV",
        "LABEL",
        "ARG",
        "WORKDIR",
        "USER",
        "CMD",
        "ENTRYPOINT",
        "EXPOSE",
        "VOLUME",
        "SHELL",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ONBUILD",
        "MAINTAINER",
        "run",
        "#",
        "# escape=`",
        "# check=",
        "ONBUILD RUN",
        "BOGUS",
        "",
    ]);
    let piece = prop::sample::select(vec![
        " ",
        "\t",
        "\u{a0}",
        "a",
        "é",
        "=",
        "\"",
        "'",
        "\\",
        "`",
        "$",
        "{",
        "}",
        "${x:-",
        "<<",
        "<<-",
        "EOF",
        "\n",
        "\r\n",
        "\\\n",
        "`\n",
        "--",
        "--mount=",
        "--x",
        "[",
        "]",
        ",",
        "type=cache",
        "from=",
        "CMD",
        "NONE",
        "AS",
        "\u{0}",
        "/",
        "#",
        "\\u00",
    ]);
    let line =
        (keyword, prop::collection::vec(piece, 0..12)).prop_map(|(word, pieces)| format!("{word} {}", pieces.concat()));
    prop::collection::vec(line, 0..8).prop_map(|lines| format!("FROM a\n{}", lines.join("\n")))
}

fn check_text(text: String) {
    let source = Source::new("Dockerfile", text);
    match parse(source.clone()) {
        Ok(file) => {
            let _ = lint(&file);
            let mut last = 0;
            for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
                assert!(instruction.lines.first > last && instruction.lines.last >= instruction.lines.first);
                assert!(instruction.lines.last <= source.line_count());
                last = instruction.lines.last;
                let shown = &source.text[instruction.span.range()];
                assert!(shown.len() >= instruction.keyword.len() || shown.contains('\n'), "{shown:?}");
            }
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            assert!(faults.is_sorted_by_key(|fault| fault.lines.map_or(u32::MAX, |lines| lines.first)));
            for fault in &faults {
                assert!(!fault.message().is_empty());
                let _ = (fault.render(), fault.excerpt());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_give_a_file_or_faults(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check_text(String::from_utf8_lossy(&bytes).into_owned());
    }

    #[test]
    fn anything_like_a_dockerfile_gives_a_file_or_faults(text in dockerfile_like()) {
        let _ = parse_trigger(&text);
        check_text(text);
    }

    #[test]
    fn any_word_expands_or_fails(word in "([a$\\{\\}:?+#%/\\\\\"'` *<é=-]|x)*", value in "[ab*\n]{0,5}") {
        let env = |name: &str| (name == "a").then(|| value.clone());
        for escape in ['\\', '`'] {
            if let Ok(expanded) = expand(&word, &env, escape) {
                let joined: usize = expanded.words().iter().map(String::len).sum();
                prop_assert!(joined <= expanded.text.len());
            }
            let _ = expand_for_show(&word, &env, escape);
        }
        let _ = expand_heredoc(&word, &env);
    }

    #[test]
    fn any_mount_is_read_or_refused(text in "(type|cache|secret|size|[=,\"a1mgé .-])*") {
        let _ = mount::parse(&text, &mut |word: &str| Ok::<_, WordError>(word.to_owned()));
        let _ = mount::parse_device(&text);
        let _ = mount::from_of(&text);
    }
}
