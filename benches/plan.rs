//! How long parsing and planning take: `cargo bench --bench plan`. One line a file: best, median, and the budget if there is one.
//!
//! The 300-line file has what long files have: many stages, arguments, heredocs, mounts, continuation lines with comments. Its
//! budget is 3 ms; the program fails when the median is over it.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rbuild::dockerfile::parse;
use rbuild::oci::platform::Platform;
use rbuild::plan::{Facts, ImageFacts, Needs, PlanOptions, Planned, plan};
use rbuild::source::Source;
use rbuild_cache::digest::{DiffId, Sha256};

/// What parse and plan of 300 lines may take.
const BUDGET: Duration = Duration::from_millis(3);
const ROUNDS: usize = 200;

fn main() -> ExitCode {
    let long = three_hundred_lines();
    assert_eq!(long.lines().count(), 300);
    let mut code = ExitCode::SUCCESS;
    for (name, text, budget) in [
        ("300 lines", long.clone(), Some(BUDGET)),
        ("12 steps, two stages", twelve_steps(), None),
        ("3,000 RUNs", "FROM alpine:3\n".to_owned() + &"RUN make -j4 all\nENV A=1\n".repeat(3000), None),
    ] {
        let rounds = if text.len() > 100_000 { ROUNDS / 10 } else { ROUNDS };
        let (parse, whole) = measure(&text, rounds);
        let over = budget.is_some_and(|budget| whole.1 > budget);
        let budget =
            budget.map_or(String::new(), |budget| format!("  budget {budget:.1?}{}", if over { ": OVER" } else { "" }));
        println(&format!(
            "{name:22} parse {:>9.1?} (median {:>9.1?})  parse + plan {:>9.1?} (median {:>9.1?}){budget}",
            parse.0, parse.1, whole.0, whole.1
        ));
        if over {
            code = ExitCode::FAILURE;
        }
    }
    code
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn println(line: &str) {
    println!("{line}");
}

/// Best and median of parsing, and of parsing and planning.
fn measure(text: &str, rounds: usize) -> ((Duration, Duration), (Duration, Duration)) {
    let options = PlanOptions::new(Platform::new("linux", "amd64", ""));
    let file = parse(Source::new("Dockerfile", text)).expect("the file is good");
    let mut facts = Facts::new();
    while let Planned::Needs(Needs::Images(requests)) = plan(&file, &options, &facts).expect("the file is good") {
        for request in requests {
            let image = image(&request.reference);
            facts.answer(&request, image);
        }
    }
    let (mut parses, mut wholes) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let started = Instant::now();
        let file = parse(Source::new("Dockerfile", text)).expect("the file is good");
        parses.push(started.elapsed());
        // As in a build: once without facts, which says what is needed, and once with them.
        let needs = plan(&file, &options, &Facts::new()).expect("the file is good");
        let planned = plan(&file, &options, &facts).expect("the file is good");
        wholes.push(started.elapsed());
        assert!(matches!(needs, Planned::Needs(_)) && matches!(planned, Planned::Plan(..)));
    }
    let summary = |mut times: Vec<Duration>| {
        times.sort_unstable();
        (times[0], times[times.len() / 2])
    };
    (summary(parses), summary(wholes))
}

fn image(reference: &str) -> ImageFacts {
    let config = r#"{"os":"linux","architecture":"amd64","config":{"Env":["PATH=/usr/bin:/bin"],"Cmd":["sh"]}}"#;
    let mut config: rbuild::oci::config::ImageConfig = serde_json::from_str(config).expect("valid");
    config.rootfs.diff_ids = vec![DiffId(Sha256::of(reference.as_bytes()))];
    ImageFacts { handle: reference.to_owned(), config, digest: None }
}

/// Exactly 300 lines.
fn three_hundred_lines() -> String {
    let mut text = "# syntax=docker/dockerfile:1\nARG GO=1.24\nARG DISTRO=bookworm\n".to_owned();
    let mut stage = 0;
    while text.lines().count() + 29 <= 290 {
        let _ = write!(
            text,
            "\n# build{stage} makes part {stage}\nFROM --platform=$BUILDPLATFORM golang:${{GO}}-${{DISTRO}} AS build{stage}\n\
             ARG TARGETOS\nARG TARGETARCH\nARG VERSION=1.{stage}\nENV CGO_ENABLED=0 GOFLAGS=\"-trimpath -mod=readonly\" PART={stage}\n\
             WORKDIR /src/part{stage}\nCOPY --link go.mod go.sum ./\n\
             RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \\\n    go mod download && \\\n\
             # a comment in between\n    go mod verify\nCOPY --chown=1000:1000 cmd internal pkg ./\nRUN <<EOF\nset -eu\n\
             go vet ./...\ngo test ./...\nEOF\n\
             RUN --mount=type=cache,target=/go/pkg/mod --mount=type=secret,id=token,env=TOKEN \\\n    \
             GOOS=$TARGETOS GOARCH=$TARGETARCH go build \\\n      -ldflags \"-X main.version=${{VERSION}}\" \\\n      \
             -o /out/part{stage} ./cmd/part{stage}\n\
             COPY <<-conf /out/etc/part{stage}.conf\n\tname = part{stage}\n\tversion = ${{VERSION:-none}}\n\tconf\nLABEL part.{stage}=yes\n"
        );
        stage += 1;
    }
    text += "\nFROM debian:${DISTRO}-slim\n";
    for part in 0..stage {
        let _ = writeln!(text, "COPY --from=build{part} /out/ /usr/local/");
    }
    while text.lines().count() < 299 {
        let _ = writeln!(text, "ENV LINE_{}=\"${{DISTRO}} and more\"", text.lines().count());
    }
    text + "ENTRYPOINT [\"/usr/local/part0\"]\n"
}

fn twelve_steps() -> String {
    let mut text = "FROM alpine:3 AS build\n".to_owned();
    (0..3).for_each(|n| _ = write!(text, "COPY src{n} /src\nRUN make part{n}\n"));
    text += "FROM alpine:3\n";
    (0..3).for_each(|n| _ = write!(text, "COPY --from=build /out{n} /\nRUN check {n}\n"));
    text
}
