//! RUN, CMD, ENTRYPOINT, SHELL, HEALTHCHECK and ONBUILD: instructions whose argument is a command.

use std::ops::Range;
use std::time::Duration;

use pest::Parser as _;

use super::flags::{Spec, Takes};
use super::{Bodies, Context, Fault, Parts, duration, first_word, json};
use crate::dockerfile::ast::{CommandLine, Healthcheck, Run};
use crate::dockerfile::grammar::line::{LineParser, Rule};
use crate::dockerfile::mount;
use crate::dockerfile::quote::quoted;

const RUN_FLAGS: [Spec; 4] =
    [("mount", Takes::List), ("network", Takes::Text), ("security", Takes::Text), ("device", Takes::List)];

const HEALTHCHECK_FLAGS: [Spec; 5] = [
    ("interval", Takes::Text),
    ("timeout", Takes::Text),
    ("start-period", Takes::Text),
    ("start-interval", Takes::Text),
    ("retries", Takes::Text),
];

impl Context<'_> {
    pub(super) fn run(&self, parts: Parts<'_>, bodies: Bodies<'_>) -> Result<Run, Fault> {
        let Parts { flags, rest } = parts;
        let command = self.command_line(rest)?;
        flags.check(&RUN_FLAGS)?;
        let (devices, mounts) = (flags.list("device"), flags.list("mount"));
        for (device, at) in devices.iter().zip(flags.places("device")) {
            mount::parse_device(&device.text).map_err(|error| Fault::new("invalid-device", error.to_string(), at))?;
        }
        for (mount, at) in mounts.iter().zip(flags.places("mount")) {
            mount::check(&mount.text).map_err(|error| Fault::new("invalid-mount", error.to_string(), at))?;
        }
        let (network, security) = (flags.word("network"), flags.word("security"));
        if let Some(word) = network.as_ref().filter(|word| !["default", "none", "host"].contains(&word.text.as_str())) {
            let text = format!("invalid network mode {}", quoted(&word.text));
            return Err(Fault::new("invalid-network", text, flags.place("network")).help("use default, none or host"));
        }
        if let Some(word) = security.as_ref().filter(|word| !["sandbox", "insecure"].contains(&word.text.as_str())) {
            let text = format!("security {} is not valid", quoted(&word.text));
            return Err(Fault::new("invalid-security", text, flags.place("security")).help("use sandbox or insecure"));
        }
        let heredocs = bodies.into_iter().map(|(heredoc, _)| heredoc).collect();
        Ok(Run { command, heredocs, mounts, network, security, devices })
    }

    pub(super) fn cmd(&self, parts: Parts<'_>) -> Result<CommandLine, Fault> {
        let command = self.command_line(parts.rest)?;
        parts.flags.check(&[])?;
        Ok(command)
    }

    pub(super) fn shell(&self, parts: Parts<'_>) -> Result<Vec<String>, Fault> {
        let command = self.command_line(parts.rest)?;
        parts.flags.check(&[])?;
        match command {
            CommandLine::Exec(words) if !words.is_empty() => Ok(words),
            CommandLine::Shell(text) if !text.is_empty() => {
                let words: Vec<String> = text.split_whitespace().map(quoted).collect();
                Err(self
                    .fault("shell-not-json", "SHELL requires the arguments to be in JSON form")
                    .help(format!("write SHELL [{}]", words.join(", "))))
            }
            CommandLine::Exec(_) | CommandLine::Shell(_) => Err(self.at_least_one("SHELL")),
        }
    }

    pub(super) fn healthcheck(&self, parts: Parts<'_>) -> Result<Healthcheck, Fault> {
        let Parts { flags, mut rest } = parts;
        let Some(kind) = rest.next() else { return Err(self.at_least_one("HEALTHCHECK")) };
        let has_more = rest.peek().is_some();
        let command = self.command_line(rest)?;
        let name = kind.as_str().to_uppercase();
        if name == "NONE" {
            if has_more && command != CommandLine::Exec(Vec::new()) {
                return Err(self.fault("healthcheck-none", "HEALTHCHECK NONE takes no arguments"));
            }
            return Ok(Healthcheck::None);
        }
        flags.check(&HEALTHCHECK_FLAGS)?;
        if name != "CMD" {
            let text = format!("Unknown type {} in HEALTHCHECK (try CMD)", quoted(&name));
            return Err(Fault::new("healthcheck-type", text, self.framed.range(&kind)));
        }
        if !has_more || command == CommandLine::Exec(Vec::new()) {
            return Err(self.fault("healthcheck-command", "Missing command after HEALTHCHECK CMD"));
        }
        let interval = |name: &'static str| match flags.text(name) {
            Some(word) => read_interval(name, &word.text, flags.place(name)),
            None => Ok(None),
        };
        Ok(Healthcheck::Cmd {
            command,
            interval: interval("interval")?,
            timeout: interval("timeout")?,
            start_period: interval("start-period")?,
            start_interval: interval("start-interval")?,
            retries: match flags.text("retries") {
                Some(word) => read_retries(&word.text, flags.place("retries"))?,
                None => None,
            },
        })
    }

    /// The trigger's text as written; what is wrong inside it is found when it is triggered, except for its shape.
    pub(super) fn onbuild(&self, parts: Parts<'_>, bodies: &Bodies<'_>) -> Result<String, Fault> {
        let Some(trigger) = parts.rest.peek() else { return Err(self.at_least_one("ONBUILD")) };
        let name = first_word(trigger.as_str()).to_uppercase();
        let at = self.framed.range(&trigger);
        let at_name = at.start..at.start + first_word(trigger.as_str()).len();
        if name != "ONBUILD" {
            self.check_trigger_shape(trigger.as_str(), &at)?;
        }
        parts.flags.check(&[])?;
        if name == "ONBUILD" {
            return Err(Fault::new("onbuild-chained", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", at_name));
        }
        if name == "MAINTAINER" || name == "FROM" {
            return Err(Fault::new("onbuild-trigger", format!("{name} isn't allowed as an ONBUILD trigger"), at_name));
        }
        let line = self.framed.line.text.trim_start();
        let mut text =
            line[self.framed.keyword().len()..].trim_start_matches([' ', '\t', '\r', '\u{0b}', '\u{0c}']).to_owned();
        for (heredoc, raw) in bodies {
            text.push('\n');
            text.push_str(raw);
            text.push_str(&heredoc.name);
        }
        Ok(text)
    }

    /// Faults of shape (JSON of other things than strings, ENV without a value) count inside a trigger, too.
    fn check_trigger_shape(&self, trigger: &str, at: &Range<usize>) -> Result<(), Fault> {
        let framed = format!("{}{trigger}", self.escape);
        let Some(pair) = LineParser::parse(Rule::line, &framed).ok().and_then(|mut pairs| pairs.next()) else {
            return Ok(());
        };
        let name = match pair.as_rule() {
            Rule::env => "ENV",
            Rule::label => "LABEL",
            _ => "",
        };
        let mut first = true;
        for part in pair.into_inner().skip(1) {
            match part.as_rule() {
                Rule::legacy_pair if part.clone().into_inner().count() < 2 => {
                    return Err(Fault::shape("missing-value", format!("{name} must have two arguments"), at.clone()));
                }
                Rule::word if !name.is_empty() && !part.as_str().contains('=') => {
                    let word = quoted(part.as_str());
                    let text = format!("Syntax error - can't find = in {word}. Must be of the form: name=value");
                    return Err(Fault::shape("missing-equals", text, at.clone()));
                }
                Rule::shell_form | Rule::path if first && json::is_other_array(&framed[part.as_span().start()..]) => {
                    let text = "when using JSON array syntax, arrays must be comprised of strings only";
                    return Err(Fault::shape("array-of-non-strings", text, at.clone()));
                }
                _ => {}
            }
            first = false;
        }
        Ok(())
    }
}

/// A zero counts as not given.
fn read_interval(name: &str, text: &str, at: Range<usize>) -> Result<Option<Duration>, Fault> {
    const LEAST: Duration = Duration::from_millis(1);
    let duration = duration::parse(text).map_err(|error| {
        Fault::new("invalid-duration", error, at.clone()).help("write a number with a unit, e.g. 30s, 1m30s or 500ms")
    })?;
    match duration {
        Some(Duration::ZERO) => Ok(None),
        Some(duration) if duration >= LEAST => Ok(Some(duration)),
        Some(_) | None => {
            Err(Fault::new("invalid-duration", format!("Interval {} cannot be less than 1ms", quoted(name)), at))
        }
    }
}

/// A zero counts as not given.
fn read_retries(text: &str, at: Range<usize>) -> Result<Option<u32>, Fault> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        let error = format!("strconv.ParseInt: parsing {}: invalid syntax", quoted(text));
        return Err(Fault::new("invalid-retries", error, at));
    }
    match text.parse::<i32>() {
        Ok(0) => Ok(None),
        Ok(retries) => u32::try_from(retries)
            .map(Some)
            .map_err(|_| Fault::new("invalid-retries", format!("--retries cannot be negative ({retries})"), at)),
        Err(_) => {
            let error = format!("strconv.ParseInt: parsing {}: value out of range", quoted(text));
            Err(Fault::new("invalid-retries", error, at))
        }
    }
}
