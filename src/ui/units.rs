//! Numbers as people read them: sizes and durations in the words Docker uses.

use std::time::Duration;

const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// A size in decimal units with two digits after the point, whole bytes below 1000: `3.64MB`, `227B`.
pub fn decimal_size(bytes: u64) -> String {
    let (value, unit) = scaled(bytes);
    if unit == 0 { format!("{bytes}B") } else { format!("{value:.2}{}", UNITS[unit]) }
}

/// A size with at most `digits` significant digits and no trailing zeros: `7.8MB`, `142MB`, `0B`.
pub fn short_size(bytes: u64, digits: usize) -> String {
    let (mut value, mut unit) = scaled(bytes);
    let decimals = |value: f64| {
        digits.saturating_sub(if value >= 100.0 {
            3
        } else if value >= 10.0 {
            2
        } else {
            1
        })
    };
    let mut text = format!("{value:.*}", decimals(value));
    if text.parse::<f64>().is_ok_and(|rounded| rounded >= 1000.0) && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
        text = format!("{value:.*}", decimals(value));
    }
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{text}{}", UNITS[unit])
}

#[expect(clippy::cast_precision_loss, reason = "only shown, with few digits")]
fn scaled(bytes: u64) -> (f64, usize) {
    let mut unit = 0;
    let mut base = 1u64;
    while unit + 1 < UNITS.len() && bytes / base >= 1000 {
        base *= 1000;
        unit += 1;
    }
    (bytes as f64 / base as f64, unit)
}

/// A rough duration in words: `About a minute`, `4 hours`, `3 weeks`.
pub fn duration_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let table: Vec<(String, &str)> = vec![
            (decimal_size(0), "0B"),
            (decimal_size(999), "999B"),
            (decimal_size(1000), "1.00kB"),
            (decimal_size(3_640_000), "3.64MB"),
            (decimal_size(u64::MAX), "18.45EB"),
            (short_size(0, 3), "0B"),
            (short_size(7_797_000, 3), "7.8MB"),
            (short_size(999_999, 3), "1MB"),
            (short_size(142_400_000, 3), "142MB"),
            (short_size(1_234_000_000, 4), "1.234GB"),
            (short_size(20, 3), "20B"),
            (short_size(100, 3), "100B"),
        ];
        for (got, want) in table {
            assert_eq!(got, want);
        }
    }

    #[test]
    fn durations() {
        let table = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (4 * 3600, "4 hours"),
            (3 * 86_400, "3 days"),
            (21 * 86_400, "3 weeks"),
            (100 * 86_400, "3 months"),
            (800 * 86_400, "2 years"),
        ];
        for (seconds, want) in table {
            assert_eq!(duration_words(Duration::from_secs(seconds)), want);
        }
    }
}
