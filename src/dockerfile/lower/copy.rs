//! COPY and ADD.

use super::flags::{Spec, Takes};
use super::{Bodies, Context, Fault, Parts};
use crate::dockerfile::ast::{Copy, Heredoc, SourceRef};
use crate::dockerfile::heredoc::{self, Marker};

const COPY_FLAGS: [Spec; 6] = [
    ("chown", Takes::Text),
    ("from", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("exclude", Takes::List),
    ("parents", Takes::Bool),
];

const ADD_FLAGS: [Spec; 7] = [
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::Text),
    ("unpack", Takes::Bool),
    ("exclude", Takes::List),
];

impl Context<'_> {
    pub(super) fn copy(&self, parts: Parts<'_>, bodies: Bodies<'_>, name: &str) -> Result<Copy, Fault> {
        let Parts { flags, rest } = parts;
        let (mut words, json) = self.path_words(rest)?;
        let Some((destination, at)) = words.pop().filter(|_| !words.is_empty()) else {
            let text =
                "requires at least two arguments, but only one was provided. Destination could not be determined";
            let help = format!("write {name} SOURCE… DESTINATION");
            return Err(self.fault("missing-argument", format!("{name} {text}")).help(help));
        };
        flags.check(if name == "COPY" { &COPY_FLAGS } else { &ADD_FLAGS })?;
        // In JSON form `<<EOF` is a file's name.
        let marker = |word: &str| if json { None } else { heredoc::marker(word).ok().flatten() };
        if marker(&destination.text).is_some() {
            return Err(Fault::new(
                "heredoc-destination",
                format!("{name} cannot accept a heredoc as a destination"),
                at,
            ));
        }
        let mut copy = Copy {
            sources: Vec::new(),
            heredocs: Vec::new(),
            order: Vec::with_capacity(words.len()),
            destination,
            from: flags.text("from"),
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.boolean("link").unwrap_or(false),
            parents: flags.boolean("parents").unwrap_or(false),
            exclude: flags.list("exclude"),
            checksum: flags.text("checksum"),
            keep_git_dir: flags.boolean("keep-git-dir"),
            unpack: flags.boolean("unpack"),
        };
        let mut bodies: Vec<Heredoc> = bodies.into_iter().map(|(heredoc, _)| heredoc).collect();
        for (word, _) in words {
            copy.order.push(if let Some(marker) = marker(&word.text) {
                copy.heredocs.push(take_body(&mut bodies, marker, word.span));
                SourceRef::Heredoc(copy.heredocs.len() - 1)
            } else {
                copy.sources.push(word);
                SourceRef::Path(copy.sources.len() - 1)
            });
        }
        Ok(copy)
    }
}

/// The next body with the marker's name. There is none when quotes elsewhere in the line hid the marker: then it is empty.
fn take_body(bodies: &mut Vec<Heredoc>, marker: Marker, span: crate::source::Span) -> Heredoc {
    match bodies.iter().position(|body| body.name == marker.name) {
        Some(index) => Heredoc { expand: marker.expand, ..bodies.remove(index) },
        None => Heredoc {
            name: marker.name,
            fd: marker.fd,
            expand: marker.expand,
            chomp: marker.chomp,
            content: String::new(),
            span,
        },
    }
}
