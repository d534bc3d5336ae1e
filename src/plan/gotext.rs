//! Values as Go prints them: history texts of images quote them that way.
//!
//! Only what BuildKit's formats `%q`, `%v` and `%+v` need.

use crate::dockerfile::quote::quoted;
use crate::oci::config::HealthConfig;

/// `%q` of a list: `["a" "b"]`.
pub(crate) fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(" "))
}

/// `%v` of a list: `[a b]`.
pub(crate) fn plain_list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// `%+v` of a healthcheck.
pub(crate) fn healthcheck(health: &HealthConfig) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(health.test.as_deref().unwrap_or_default()),
        duration(health.interval),
        duration(health.timeout),
        duration(health.start_period),
        duration(health.start_interval),
        health.retries
    )
}

/// A Go duration: `1h0m30s`, `1.5s`, `250ms`, `0s`.
pub(crate) fn duration(nanoseconds: i64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let n = nanoseconds.unsigned_abs();
    let fraction = |n: u64, unit: u64| {
        let digits = format!("{:0width$}", n % unit, width = unit.ilog10() as usize);
        let digits = digits.trim_end_matches('0');
        if unit == 1 || digits.is_empty() { (n / unit).to_string() } else { format!("{}.{digits}", n / unit) }
    };
    match n {
        0 => "0s".to_owned(),
        n if n < 1_000 => format!("{sign}{n}ns"),
        n if n < 1_000_000 => format!("{sign}{}µs", fraction(n, 1_000)),
        n if n < SECOND => format!("{sign}{}ms", fraction(n, 1_000_000)),
        n => {
            let (hours, minutes) = (n / (3600 * SECOND), n / (60 * SECOND) % 60);
            let seconds = fraction(n % (60 * SECOND), SECOND);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (1_500_000_000, "1.5s"),
            (30_000_000_000, "30s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-5_000_000_000, "-5s"),
        ] {
            assert_eq!(duration(nanoseconds), text);
        }
    }

    #[test]
    fn lists_are_gos() {
        assert_eq!(quoted_list(&["/bin/sh".into(), "x y".into()]), r#"["/bin/sh" "x y"]"#);
        assert_eq!(quoted_list(&[]), "[]");
    }
}
