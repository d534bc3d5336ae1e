//! Heredoc markers: which words of a line open one, and how its body is to be read.
//!
//! Bodies are taken from the file by `split`; this file only reads words.

use pest::Parser as _;

use super::grammar::line::{LineParser, Rule};
use super::words;

/// A word like `3<<-"EOF"`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// Delimiter without quotes.
    pub(super) name: String,
    /// The number before `<<`; 0 without one.
    pub(super) fd: u32,
    /// No part of the delimiter is quoted.
    pub(super) expand: bool,
    /// `<<-`
    pub(super) chomp: bool,
}

/// The markers of a whole line in order. Delimiters are always read with backslash as escape, whatever the file says.
pub(super) fn markers(line: &str) -> Result<Vec<Marker>, words::WordError> {
    let mut found = Vec::new();
    for word in words::raw_words(line) {
        found.extend(marker(&word)?);
    }
    Ok(found)
}

/// Reads one word; `None` if it opens no heredoc.
pub(super) fn marker(word: &str) -> Result<Option<Marker>, words::WordError> {
    if !word.contains("<<") {
        return Ok(None);
    }
    let Some(parts) = LineParser::parse(Rule::heredoc_marker, word).ok().and_then(|mut pairs| pairs.next()) else {
        return Ok(None);
    };
    let (mut fd, mut chomp, mut delimiter) = ("", false, "");
    for part in parts.into_inner() {
        match part.as_rule() {
            Rule::heredoc_fd => fd = part.as_str(),
            Rule::heredoc_chomp => chomp = !part.as_str().is_empty(),
            _ => delimiter = part.as_str(),
        }
    }
    let (unquoted, kept) = words::delimiter_words(delimiter)?;
    let ([name], [name_with_quotes]) = (unquoted.as_slice(), kept.as_slice()) else { return Ok(None) };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Marker {
        expand: quotes(name) == quotes(name_with_quotes),
        name: name.clone(),
        fd: if fd.is_empty() { 0 } else { fd.parse().unwrap_or(u32::MAX) },
        chomp,
    }))
}

/// `body` without the tabs at the start of its lines.
pub(super) fn without_leading_tabs(body: &str) -> String {
    body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_words_open_a_heredoc() {
        // features.md D190-D192, observed.md 6
        for (line, expected) in [
            ("RUN <<EOF", "EOF"),
            ("RUN cat <<A 3<<-B", "A -B"),
            ("RUN << EOF", "EOF"),
            ("RUN <<'E'OF", "'EOF"),
            ("RUN <<\"E F\"", "'E F"),
            ("RUN <<\\EOF", "EOF"),
            ("COPY <<a.txt <<\"b\" /", "a.txt 'b"),
            ("RUN a<<EOF", ""),
            ("RUN \"x <<EOF\"", ""),
            ("RUN $((1<<2))", ""),
            ("RUN <<<EOF", ""),
            ("RUN <<EOF<", ""),
            ("RUN don't <<EOF", ""),
            ("RUN <<$X", "$X"),
            ("RUN <<${X}", "${X}"),
            // What stands before an argument is lost to BuildKit, and so are the two signs.
            ("COPY <<${B%?}E", ""),
            ("COPY <<E${B:-x}", ""),
            ("COPY <<A\"${B:-x}\" <<C", "C"),
        ] {
            let shown: Vec<String> = markers(line)
                .unwrap()
                .iter()
                .map(|m| format!("{}{}{}", if m.chomp { "-" } else { "" }, if m.expand { "" } else { "'" }, m.name))
                .collect();
            assert_eq!(shown.join(" "), expected, "{line}");
        }
        assert_eq!(
            markers("RUN 12<<A 99999999999<<B").unwrap().iter().map(|m| m.fd).collect::<Vec<_>>(),
            [12, u32::MAX]
        );
    }
}
