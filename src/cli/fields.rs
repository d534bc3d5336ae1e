//! Values of options that hold several things: CSV fields, `key=value`, sizes, limits, host names, durations.
//!
//! Pure. The texts of errors are those Docker's client gives.

use std::time::Duration;

/// Splits a line of CSV; a field in quotes may hold commas, and `""` for a quote.
pub(super) fn csv(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut quoted = quoted;
            loop {
                let Some((text, after)) = quoted.split_once('"') else {
                    return Err(format!(
                        "parse error on line 1, column {}: extraneous or missing \" in quoted-field",
                        line.len() + 1
                    ));
                };
                field.push_str(text);
                let Some(after_quote) = after.strip_prefix('"') else {
                    rest = after;
                    break;
                };
                field.push('"');
                quoted = after_quote;
            }
            fields.push(field);
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None if rest.is_empty() => return Ok(fields),
                None => {
                    let column = line.len() - rest.len();
                    return Err(format!(
                        "parse error on line 1, column {column}: extraneous or missing \" in quoted-field"
                    ));
                }
            }
            continue;
        }
        let (field, next) = rest.split_once(',').map_or((rest, None), |(field, next)| (field, Some(next)));
        if let Some(at) = field.find('"') {
            let column = line.len() - rest.len() + at + 1;
            return Err(format!("parse error on line 1, column {column}: bare \" in non-quoted-field"));
        }
        fields.push(field.to_owned());
        match next {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// Splits `name=value`; without `=` there is no value. An empty name is an error.
pub(super) fn pair(text: &str) -> Result<(&str, Option<&str>), String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    if name.is_empty() {
        return Err(format!("invalid key-value pair {text:?}: empty key"));
    }
    Ok((name, value))
}

/// A size of memory: `64m` and `64MiB` are 64 * 1024 * 1024.
pub(super) fn memory(text: &str) -> Result<u64, String> {
    size(text, 1024)
}

/// A size of storage: `50GB` is decimal, `50GiB` is binary.
pub(super) fn storage(text: &str) -> Result<u64, String> {
    let binary = text.to_ascii_lowercase().ends_with("ib");
    size(text, if binary { 1024 } else { 1000 })
}

#[expect(clippy::cast_precision_loss, reason = "fractions are allowed, sizes of exabytes need no exact byte")]
fn size(text: &str, base: u64) -> Result<u64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let bad_unit = || format!("invalid suffix: '{unit}'");
    let power = match unit.chars().next() {
        None | Some('b') => 0,
        Some(letter) => 1 + "kmgtp".find(letter).ok_or_else(bad_unit)? as u32,
    };
    if !matches!((power, unit.get(1..)), (_, None) | (0, Some("")) | (1.., Some("" | "b" | "ib"))) {
        return Err(bad_unit());
    }
    Ok((number * base.pow(power) as f64) as u64)
}

/// `NAME=SOFT[:HARD]`; -1 is unlimited.
pub(super) fn ulimit(text: &str) -> Result<(String, i64, i64), String> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let (name, limits) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |text: &str| text.parse::<i64>().map_err(|_| format!("invalid ulimit value: {text:?}"));
    let parts: Vec<_> = limits.split(':').collect();
    let (soft, hard) = match parts.as_slice() {
        [soft] => (number(soft)?, number(soft)?),
        [soft, hard] => (number(soft)?, number(hard)?),
        _ => {
            return Err(format!("too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"));
        }
    };
    let must = "ulimit soft limit must be less than or equal to hard limit";
    if hard != -1 && soft == -1 {
        return Err(format!("{must}: soft: -1 (unlimited), hard: {hard}"));
    }
    if hard != -1 && soft > hard {
        return Err(format!("{must}: {soft} > {hard}"));
    }
    Ok((name.to_owned(), soft, hard))
}

/// `HOST:IP` or `HOST=IP`; several addresses with commas, IPv6 also in brackets. Steps share this machine's network, so
/// `host-gateway` is its loopback address.
pub(super) fn hosts(text: &str) -> Result<Vec<(String, String)>, String> {
    let invalid = || format!("invalid host {text}");
    let (host, addresses) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(invalid)?;
    if host.is_empty() || addresses.is_empty() {
        return Err(invalid());
    }
    let mut lines = Vec::new();
    for address in addresses.split(',') {
        let address = if address == "host-gateway" { "127.0.0.1" } else { address };
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        bare.parse::<std::net::IpAddr>().map_err(|_| invalid())?;
        lines.push((host.to_owned(), bare.to_owned()));
    }
    Ok(lines)
}

/// A duration as Go writes it, `1h30m`, or seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..split].parse().map_err(|_| invalid())?;
        let unit_end = rest[split..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| split + at);
        total += number
            * match &rest[split..unit_end] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(invalid()),
            };
        rest = &rest[unit_end..];
    }
    if text.is_empty() {
        return Err(invalid());
    }
    Duration::try_from_secs_f64(total).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_fields() {
        let table: [(&str, &[&str]); 7] = [
            ("", &[""]),
            ("a", &["a"]),
            ("a,b=c", &["a", "b=c"]),
            ("a,,b,", &["a", "", "b", ""]),
            (r#""name=a,b",push=true"#, &["name=a,b", "push=true"]),
            (r#""say ""hi""""#, &["say \"hi\""]),
            (r#"a,"""#, &["a", ""]),
        ];
        for (line, want) in table {
            assert_eq!(csv(line).expect(line), want, "{line}");
        }
        for line in [r#"a"b"#, r#""a"#, r#""a"b"#] {
            assert!(csv(line).is_err(), "{line}");
        }
    }

    #[test]
    fn sizes() {
        let table = [
            ("64m", Ok(64 << 20)),
            ("1", Ok(1)),
            ("1b", Ok(1)),
            ("1.5k", Ok(1536)),
            ("2GiB", Ok(2 << 30)),
            ("2 gb", Ok(2 << 30)),
        ];
        for (text, want) in table {
            assert_eq!(memory(text), want, "{text}");
        }
        assert_eq!(storage("50GB"), Ok(50_000_000_000));
        assert_eq!(storage("1GiB"), Ok(1 << 30));
        for text in ["", "x", "-1", "1kx", "1bb", "1.2.3", "1ki"] {
            assert!(memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ulimits() {
        assert_eq!(ulimit("nofile=1024"), Ok(("nofile".to_owned(), 1024, 1024)));
        assert_eq!(ulimit("nofile=1:-1"), Ok(("nofile".to_owned(), 1, -1)));
        let table = [
            ("nofile", "invalid ulimit argument: nofile"),
            ("x=1", "invalid ulimit type: x"),
            ("cpu=1:2:3", "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`"),
            ("cpu=2:1", "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
            ("cpu=-1:1", "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 1"),
            ("cpu=x", "invalid ulimit value: \"x\""),
        ];
        for (text, want) in table {
            assert_eq!(ulimit(text), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn added_hosts() {
        let line = |host: &str, ip: &str| (host.to_owned(), ip.to_owned());
        assert_eq!(hosts("a:1.2.3.4"), Ok(vec![line("a", "1.2.3.4")]));
        assert_eq!(hosts("a=::1"), Ok(vec![line("a", "::1")]));
        assert_eq!(hosts("a:::1"), Ok(vec![line("a", "::1")]));
        assert_eq!(hosts("a=[::1],1.2.3.4"), Ok(vec![line("a", "::1"), line("a", "1.2.3.4")]));
        assert_eq!(hosts("a:host-gateway"), Ok(vec![line("a", "127.0.0.1")]));
        for text in ["a", "a:", ":1.2.3.4", "a:b", "a=1.2.3"] {
            assert_eq!(hosts(text), Err(format!("invalid host {text}")));
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for text in ["", "h", "1", "1x", "1h2"].into_iter().filter(|text| *text != "1") {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs() {
        assert_eq!(pair("a=b=c"), Ok(("a", Some("b=c"))));
        assert_eq!(pair("a"), Ok(("a", None)));
        assert_eq!(pair("=b"), Err("invalid key-value pair \"=b\": empty key".to_owned()));
    }
}
