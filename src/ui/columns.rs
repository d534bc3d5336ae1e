//! How many terminal columns text takes, and cutting it to fit.
//!
//! Pure. An approximation on purpose: combining marks count nothing, East Asian and emoji blocks count two, the rest one. A wrong
//! guess costs one wrapped row; the drawing library counts wrapped rows by itself.

/// Columns of one character.
fn width(c: char) -> usize {
    match c as u32 {
        0..=0x1f | 0x7f..=0x9f | 0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Terminal columns of `text` (without escape sequences).
pub fn columns(text: &str) -> usize {
    text.chars().map(width).sum()
}

/// The longest beginning of `text` that fits into `limit` columns.
pub(super) fn fit(text: &str, limit: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += width(c);
        if used > limit {
            return &text[..at];
        }
    }
    text
}

/// `left`, blanks, `right`: in all `total` columns if there is room.
pub(super) fn justify(left: &str, right: &str, total: usize) -> String {
    let gap = total.saturating_sub(columns(left) + columns(right)).max(1);
    format!("{left}{:gap$}{right}", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_and_combining_characters() {
        assert_eq!(columns("abc"), 3);
        assert_eq!(columns("e\u{301}"), 1);
        assert_eq!(columns("日本"), 4);
        assert_eq!(fit("日本語", 5), "日本");
        assert_eq!(justify("a", "b", 5), "a   b");
        assert_eq!(justify("aaaa", "b", 3), "aaaa b");
    }
}
