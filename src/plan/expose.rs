//! EXPOSE: `[ip:][host:]port[-port][/proto]` to the `port/proto` names a config lists, and what is odd about a text.

use std::net::IpAddr;

/// One EXPOSE word, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    /// `port/proto`, one for each port of a range.
    pub(crate) names: Vec<String>,
    /// The protocol was not written in lower case.
    pub(crate) odd_case: bool,
    /// It names an address or host port, which EXPOSE has no use for.
    pub(crate) maps_host: bool,
}

/// Parses one word.
pub(crate) fn parse(text: &str) -> Result<Ports, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (ip, host, container) = match parts.as_slice() {
        [] => (String::new(), "", ""),
        [container] => (String::new(), "", *container),
        [host, container] => (String::new(), *host, *container),
        [ip @ .., host, container] => (ip.join(":"), *host, *container),
    };
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(format!("invalid port: {text:?}: no port specified"));
    }
    let lower = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => return Err(format!("invalid port: {text:?}: invalid proto: {protocol}")),
    };
    let address = ip.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&ip);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    let (first, last) = range(port).ok_or_else(|| format!("invalid containerPort: {port}"))?;
    if !host.is_empty() {
        let (host_first, host_last) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if last - first != host_last - host_first && first != last {
            return Err(format!("invalid ranges specified for container and host Ports: {port} and {host}"));
        }
    }
    Ok(Ports {
        names: (first..=last).map(|port| format!("{port}/{lower}")).collect(),
        odd_case: protocol != protocol.to_lowercase(),
        maps_host: !ip.is_empty() || !host.is_empty(),
    })
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.strip_prefix('+').unwrap_or(text).parse::<u16>().ok();
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let names = |text: &str| parse(text).expect(text).names;
        assert_eq!(names("80"), ["80/tcp"]);
        assert_eq!(names("53/UDP"), ["53/udp"]);
        assert_eq!(names("81:82"), ["82/tcp"]);
        assert_eq!(names("127.0.0.1:8080:80"), ["80/tcp"]);
        assert_eq!(names("[::1]:80:81"), ["81/tcp"]);
        assert_eq!(names("7-9"), ["7/tcp", "8/tcp", "9/tcp"]);
        assert!(parse("1/Tcp").expect("valid").odd_case);
        assert!(parse("1:1").expect("valid").maps_host);
    }

    #[test]
    fn faults() {
        for (text, message) in [
            ("80/http", "invalid port: \"80/http\": invalid proto: http"),
            ("x", "invalid containerPort: x"),
            ("70000", "invalid containerPort: 70000"),
            ("9-7", "invalid containerPort: 9-7"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("x:80", "invalid hostPort: x"),
            ("1-3:1-2", "invalid ranges specified for container and host Ports: 1-2 and 1-3"),
            ("a.b:1:2", "invalid IP address: a.b"),
        ] {
            assert_eq!(parse(text), Err(message.to_owned()), "{text}");
        }
    }
}
