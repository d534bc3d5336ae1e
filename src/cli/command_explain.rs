//! `rbuild explain`: what happened to the steps of the last build, and why those that were run were not taken from the cache.
//!
//! Pure.

use std::fmt::Write as _;

use crate::pipeline::StepSummary;

/// The steps that were run, with their reasons; the others are counted. With `wanted` only steps whose name contains it, cached
/// ones too; `None` if there is none.
pub fn render(steps: &[StepSummary], wanted: Option<&str>) -> Option<String> {
    let chosen: Vec<_> = steps.iter().filter(|step| wanted.is_none_or(|text| step.name.contains(text))).collect();
    if chosen.is_empty() && wanted.is_some() {
        return None;
    }
    let mut out = String::new();
    for step in chosen.iter().filter(|step| wanted.is_some() || !(step.cached || step.unfinished)) {
        let _ = writeln!(out, "{}", step.name.replace('\n', " "));
        let _ = writeln!(out, "    {}", what_happened(step));
    }
    if wanted.is_none() {
        let count = |of: fn(&StepSummary) -> bool| chosen.iter().filter(|step| of(step)).count();
        out += &counted(count(|step| step.cached), "taken from the cache");
        out += &counted(count(|step| step.unfinished), "not finished");
        if chosen.is_empty() {
            out += "there were no steps\n";
        }
    }
    Some(out)
}

fn what_happened(step: &StepSummary) -> String {
    if step.unfinished {
        return "not finished: it failed or was not reached".to_owned();
    }
    if step.cached {
        return "taken from the cache".to_owned();
    }
    let reason = step.reason.as_ref().map_or("no reason was recorded".to_owned(), ToString::to_string);
    #[expect(clippy::cast_precision_loss, reason = "no step takes so long")]
    let seconds = step.millis as f64 / 1000.0;
    format!("run in {seconds:.1}s: {reason}")
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!("1 step was {what}\n"),
        n => format!("{n} steps were {what}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::explain::MissReason;

    fn steps() -> Vec<StepSummary> {
        let step = |name: &str, cached, reason, unfinished| StepSummary {
            name: name.to_owned(),
            cached,
            reason,
            millis: 1234,
            unfinished,
        };
        let files = MissReason::Files {
            input: "files of context".to_owned(),
            changes: vec!["src/main.rs: content changed".to_owned()],
            more: 2,
        };
        vec![
            step("[build 1/3] WORKDIR /src", true, None, false),
            step("[build 2/3] COPY . .", false, Some(files), false),
            step("[build 3/3] RUN <<EOF\nmake\nEOF", false, Some(MissReason::FirstBuild), false),
            step("[stage-1 1/1] COPY --from=build /a /a", false, None, true),
        ]
    }

    #[test]
    fn all_steps() {
        insta::assert_snapshot!(render(&steps(), None).expect("there are steps"), @"
        [build 2/3] COPY . .
            run in 1.2s: files of context: src/main.rs: content changed, and 2 more
        [build 3/3] RUN <<EOF make EOF
            run in 1.2s: never built before on this store
        1 step was taken from the cache
        1 step was not finished
        ");
        assert_eq!(render(&[], None).as_deref(), Some("there were no steps\n"));
    }

    #[test]
    fn some_steps() {
        insta::assert_snapshot!(render(&steps(), Some("1/")).expect("there are two"), @"
        [build 1/3] WORKDIR /src
            taken from the cache
        [stage-1 1/1] COPY --from=build /a /a
            not finished: it failed or was not reached
        ");
        assert_eq!(render(&steps(), Some("9/9")), None);
    }
}
