//! Durations as Go writes them: `1h30m`, `1.5s`, `300ms`.

use std::time::Duration;

use crate::dockerfile::quote::quoted;

/// Reads a duration that is not negative; the error is Go's. `Ok(None)` is a negative one.
pub(super) fn parse(text: &str) -> Result<Option<Duration>, String> {
    let invalid = || format!("time: invalid duration {}", quoted(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Some(Duration::ZERO));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let whole = take_digits(&mut rest);
        let fraction = match rest.strip_prefix('.') {
            Some(after) => {
                rest = after;
                take_digits(&mut rest)
            }
            None => "",
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_length = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, after) = rest.split_at(unit_length);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quoted(text)));
        }
        let nanos: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(format!("time: unknown unit {} in duration {}", quoted(unit), quoted(text))),
        };
        rest = after;
        if !whole.is_empty() {
            let whole: u64 = whole.parse().map_err(|_| invalid())?;
            total += u128::from(whole) * nanos;
        }
        // More digits than these make less than a nanosecond.
        let digits = &fraction[..fraction.len().min(18)];
        if !digits.is_empty() {
            let value: u128 = digits.parse().map_err(|_| invalid())?;
            total += value * nanos / 10u128.pow(digits.len() as u32);
        }
        if total > i64::MAX as u128 {
            return Err(invalid());
        }
    }
    Ok(if negative && total > 0 { None } else { Some(Duration::from_nanos(total as u64)) })
}

fn take_digits<'a>(text: &mut &'a str) -> &'a str {
    let (digits, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    *text = rest;
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let ms = |n| Ok(Some(Duration::from_millis(n)));
        for (text, expected) in [
            ("0", ms(0)),
            ("1h30m", ms(5_400_000)),
            ("1.5s", ms(1500)),
            (".5s", ms(500)),
            ("+300ms", ms(300)),
            ("1000us", ms(1)),
            ("-1s", Ok(None)),
            ("", Err("time: invalid duration \"\"".into())),
            ("5", Err("time: missing unit in duration \"5\"".into())),
            ("5x", Err("time: unknown unit \"x\" in duration \"5x\"".into())),
            ("s", Err("time: invalid duration \"s\"".into())),
            ("99999999999h", Err("time: invalid duration \"99999999999h\"".into())),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
