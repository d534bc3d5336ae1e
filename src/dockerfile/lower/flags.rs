//! `--name[=value]` flags of an instruction, checked against the ones it has.

use std::ops::Range;

use pest::iterators::Pair;

use super::{Fault, Framed};
use crate::diagnostic::with_suggestion;
use crate::dockerfile::ast::Word;
use crate::dockerfile::grammar::line::Rule;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, `=true` or `=false`.
    Bool,
    /// `=value`, once.
    Text,
    /// `=value`, any number of times.
    List,
}

/// A flag an instruction has.
pub(super) type Spec = (&'static str, Takes);

/// The flags of one instruction as written, quotes removed.
#[derive(Debug, Default)]
pub(super) struct Flags {
    written: Vec<Flag>,
}

#[derive(Debug)]
struct Flag {
    /// Without dashes.
    name: String,
    value: Option<Word>,
    at: Range<usize>,
}

impl Flags {
    /// Reads what the grammar found.
    pub(super) fn read(pair: Pair<'_, Rule>, framed: &Framed<'_>) -> Self {
        let written = pair.into_inner().map(|flag| {
            let at = framed.range(&flag);
            let raw_value = flag.as_str().find('=').map(|equals| at.start + equals + 1..at.end);
            let text: String =
                flag.into_inner().filter(|p| p.as_rule() != Rule::flag_dashes).map(|p| p.as_str()).collect();
            match text.split_once('=') {
                Some((name, value)) => {
                    let value =
                        Word { text: value.to_owned(), span: framed.span(raw_value.unwrap_or_else(|| at.clone())) };
                    Flag { name: name.to_owned(), value: Some(value), at }
                }
                None => Flag { name: text, value: None, at },
            }
        });
        Self { written: written.collect() }
    }

    /// Whether each is known, fits and stands once.
    pub(super) fn check(&self, specs: &[Spec]) -> Result<(), Fault> {
        for (index, flag) in self.written.iter().enumerate() {
            let fault = |code, text: String| Err(Fault::new(code, text, flag.at.clone()));
            let Some((_, takes)) = specs.iter().find(|(name, _)| *name == flag.name) else {
                let text = format!("unknown flag: --{}", flag.name);
                let options = specs.iter().map(|(name, _)| *name);
                return fault("unknown-flag", with_suggestion(text, &flag.name, options, true));
            };
            if *takes != Takes::List && self.written[..index].iter().any(|earlier| earlier.name == flag.name) {
                return fault("duplicate-flag", format!("duplicate flag specified: --{}", flag.name));
            }
            let missing = || fault("flag-value", format!("missing a value on flag: --{}", flag.name));
            match (takes, flag.value.as_ref().map(|value| value.text.to_lowercase())) {
                (Takes::Bool, None) | (Takes::Text | Takes::List, Some(_)) => {}
                (Takes::Bool, Some(value)) => match value.as_str() {
                    "true" | "false" => {}
                    "" => return missing(),
                    _ => {
                        let given = flag.value.as_ref().map_or("", |value| &value.text);
                        return fault(
                            "flag-value",
                            format!("expecting boolean value for flag --{}, not: {given}", flag.name),
                        );
                    }
                },
                (Takes::Text | Takes::List, None) => return missing(),
            }
        }
        Ok(())
    }

    /// The value of a flag that is there, be it empty.
    pub(super) fn word(&self, name: &str) -> Option<Word> {
        self.written.iter().find(|flag| flag.name == name).and_then(|flag| flag.value.clone())
    }

    /// The value of a flag; an empty one counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<Word> {
        self.word(name).filter(|word| !word.text.is_empty())
    }

    /// All values of a repeatable flag.
    pub(super) fn list(&self, name: &str) -> Vec<Word> {
        self.written.iter().filter(|flag| flag.name == name).filter_map(|flag| flag.value.clone()).collect()
    }

    /// A boolean flag, if it is there.
    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        let flag = self.written.iter().find(|flag| flag.name == name)?;
        Some(flag.value.as_ref().is_none_or(|value| value.text.eq_ignore_ascii_case("true")))
    }

    /// Where a flag stands.
    pub(super) fn place(&self, name: &str) -> Range<usize> {
        self.written.iter().find(|flag| flag.name == name).map_or(0..0, |flag| flag.at.clone())
    }

    /// Where each flag of a name stands, in order.
    pub(super) fn places(&self, name: &str) -> impl Iterator<Item = Range<usize>> {
        self.written.iter().filter(move |flag| flag.name == name).map(|flag| flag.at.clone())
    }
}
