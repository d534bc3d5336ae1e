//! Exec form: JSON arrays of strings as Go's decoder reads them.

use serde::de::IgnoredAny;

/// The text of a JSON string with its quotes, as the grammar found it. Lone surrogates become U+FFFD.
pub(super) fn decode(literal: &str) -> String {
    let inner = literal.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(literal);
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest[at + 1..].chars().next();
        rest = rest.get(at + 2..).unwrap_or("");
        match escape {
            Some('b') => out.push('\u{08}'),
            Some('f') => out.push('\u{0c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                let unit = take_unit(&mut rest);
                let mut ahead = rest.strip_prefix("\\u").unwrap_or("");
                let pair = if (0xd800..0xdc00).contains(&unit) { Some(take_unit(&mut ahead)) } else { None };
                match pair.filter(|low| (0xdc00..0xe000).contains(low)) {
                    Some(low) => {
                        rest = ahead;
                        let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    None => out.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)),
                }
            }
            Some(c) => out.push(c),
            None => {}
        }
    }
    out.push_str(rest);
    out
}

fn take_unit(text: &mut &str) -> u32 {
    let digits = text.get(..4).unwrap_or("");
    *text = text.get(4..).unwrap_or("");
    u32::from_str_radix(digits, 16).unwrap_or(0)
}

/// Whether a text that is not in exec form is a JSON array all the same: one of other things than strings.
pub(super) fn is_other_array(text: &str) -> bool {
    text.starts_with('[') && serde_json::from_str::<Vec<IgnoredAny>>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_decode_as_in_go() {
        for (literal, expected) in [
            (r#""a\n\"b\\\/""#, "a\n\"b\\/"),
            (r#""\u00e9\ud83d\ude00""#, "é😀"),
            (r#""\ud83dx\ude00\ud83d\u0041""#, "\u{fffd}x\u{fffd}\u{fffd}A"),
            (r#""""#, ""),
        ] {
            assert_eq!(decode(literal), expected);
        }
    }

    #[test]
    fn other_arrays() {
        for (text, expected) in
            [("[1]", true), ("[[\"a\"]]", true), ("[a]", false), ("[ -f x ]", false), ("[\"a\" \"b\"]", false)]
        {
            assert_eq!(is_other_array(text), expected, "{text}");
        }
        assert!(!is_other_array(&"[".repeat(200_000)));
        assert!(is_other_array(&format!("{}{}", "[".repeat(200_000), "]".repeat(200_000))));
    }
}
