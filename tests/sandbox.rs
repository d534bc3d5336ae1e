//! The contract of `Executor` and `Snapshots`: over our own sandbox, as root, in user namespaces and in place, and over the OCI
//! runtimes crun and runc. What differs is listed, with reasons, in `behaviours::EXCEPTIONS`.
//!
//! Entering must come before the first thread, so each behaviour runs in a process of its own and this file has its own
//! `main`: it lists, filters and runs tests as libtest does, as far as cargo and nextest ask. A test is a behaviour in a
//! setting; `root_*` needs root, `sandbox_*` user namespaces. Started as root, it becomes user 1000 for the latter.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::disallowed_methods,
    reason = "a test harness"
)]
#![allow(missing_docs, unreachable_pub, reason = "a test")]

#[path = "sandbox/behaviours.rs"]
mod behaviours;
#[path = "sandbox/bench.rs"]
mod bench;
#[path = "sandbox/mounts.rs"]
mod mounts;

use std::process::{Command, ExitCode};

use bench::Setting;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let value =
        |flag: &str| arguments.iter().position(|argument| argument == flag).and_then(|at| arguments.get(at + 1));
    if let Some(name) = value("--contained") {
        let (setting, _) = find(name);
        return ExitCode::from(u8::try_from(bench::contained(name, setting)).unwrap_or(1));
    }
    if let Some(path) = value("--connect") {
        println!("{}", bench::greet(path));
        return ExitCode::SUCCESS;
    }
    if let Some(name) = value("--inside") {
        let (setting, behaviour) = find(name);
        behaviour(setting);
        return ExitCode::SUCCESS;
    }
    let with_value = ["--format", "--skip", "--test-threads", "--color", "-Z"];
    let filters: Vec<&String> = arguments
        .iter()
        .enumerate()
        .filter(|(at, argument)| {
            !argument.starts_with('-') && (*at == 0 || !with_value.contains(&arguments[at - 1].as_str()))
        })
        .map(|(_, argument)| argument)
        .collect();
    let chosen = all().into_iter().filter(|(name, ..)| {
        let matches = |filter: &&String| if has("--exact") { name == *filter } else { name.contains(filter.as_str()) };
        (filters.is_empty() || filters.iter().any(matches))
            && value("--skip").is_none_or(|skip| !name.contains(skip.as_str()))
    });
    if has("--list") {
        if !has("--ignored") {
            chosen.for_each(|(name, ..)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    if has("--ignored") {
        return ExitCode::SUCCESS;
    }
    let (mut failed, mut passed) = (Vec::new(), 0);
    for (name, setting, _) in chosen {
        match run(&name, setting) {
            Outcome::Passed => passed += 1,
            Outcome::Skipped(why) => {
                println!("test {name} ... SKIPPED: {why}");
                // In CI what cannot run is no better than what fails.
                failed.extend(std::env::var_os("CI").is_some().then_some(name));
            }
            Outcome::Failed => failed.push(name),
        }
    }
    println!("\ntest result: {passed} passed; {} failed", failed.len());
    for name in &failed {
        println!("    {name}");
    }
    ExitCode::from(u8::from(!failed.is_empty()))
}

type Behaviour = fn(Setting);

fn all() -> Vec<(String, Setting, Behaviour)> {
    let mut tests = Vec::new();
    for setting in Setting::all() {
        for (name, behaviour) in behaviours::ALL {
            if behaviours::applies(name, setting) {
                tests.push((format!("{}_{name}", setting.name()), setting, *behaviour));
            }
        }
    }
    tests
}

fn find(name: &str) -> (Setting, Behaviour) {
    let helpers: [(&str, Behaviour); 3] = [
        (behaviours::RUNS_UNTIL_KILLED, behaviours::runs_until_killed),
        (behaviours::MEASURE, behaviours::measure),
        (behaviours::INTERACTIVE, behaviours::interactive),
    ];
    let helpers = Setting::all()
        .into_iter()
        .flat_map(|setting| helpers.map(|(name, helper)| (format!("{}_{name}", setting.name()), setting, helper)));
    let found = all().into_iter().chain(helpers).find(|(known, ..)| known == name);
    let Some((_, setting, behaviour)) = found else {
        eprintln!("no test {name}");
        std::process::exit(2)
    };
    (setting, behaviour)
}

enum Outcome {
    Passed,
    Skipped(String),
    Failed,
}

fn run(name: &str, setting: Setting) -> Outcome {
    let mut command = match setting.command() {
        Ok(command) => command,
        Err(why) => return Outcome::Skipped(why),
    };
    let started = std::time::Instant::now();
    let output = command
        .env("RUST_BACKTRACE", "0")
        .args([if setting.is_contained() { "--contained" } else { "--inside" }, name])
        .output()
        .expect("starts itself");
    let took = started.elapsed().as_millis();
    if output.status.success() {
        println!("test {name} ... ok ({took} ms)");
        return Outcome::Passed;
    }
    println!("test {name} ... FAILED ({took} ms): {}", output.status);
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Outcome::Failed
}

/// This binary, to be run as it is.
fn itself() -> Command {
    Command::new(std::env::current_exe().expect("own path"))
}
