//! Text in double quotes the way Go's `%q` writes it; BuildKit's messages and history entries are full of it.

use std::fmt::Write as _;

/// `text` in double quotes with Go's escapes.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{07}' => out.push_str("\\a"),
            '\u{08}' => out.push_str("\\b"),
            '\u{0c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{0b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if is_printable(c) => out.push(c),
            c if c as u32 > 0xffff => {
                let _ = write!(out, "\\U{:08x}", c as u32);
            }
            c => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
        }
    }
    out.push('"');
    out
}

/// Letters, marks, numbers, punctuation, symbols and the plain blank.
fn is_printable(c: char) -> bool {
    use pest::unicode;
    c == ' '
        || c.is_ascii_graphic()
        || unicode::LETTER(c)
        || unicode::MARK(c)
        || unicode::NUMBER(c)
        || unicode::PUNCTUATION(c)
        || unicode::SYMBOL(c)
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn escapes_are_gos() {
        for (text, expected) in [
            ("a b", r#""a b""#),
            ("a\"\\\n\t", r#""a\"\\\n\t""#),
            ("é€😀", "\"é€😀\""),
            ("\u{1}\u{7f}\u{a0}\u{200b}\u{e0001}", r#""\x01\x7f\u00a0\u200b\U000e0001""#),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }
}
