//! Which proxy a URL goes through, by the rules that programs written in Go have: the same variables mean the same here.
//!
//! ```text
//! *                         nobody needs one
//! 10.1.2.3  10.0.0.0/8      an address, or all of a network
//! example.com               the host and all below it
//! .example.com              all hosts below it
//! example.com:5000          only at that port
//! ```
//! This machine is never reached through a proxy.

use std::net::IpAddr;

use url::{Host, Url};

use super::options::Network;

/// Proxies as the usual variables give them; loopback hosts never go through one.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// For http URLs.
    pub http: Option<String>,
    /// For https URLs.
    pub https: Option<String>,
    /// Comma-separated exceptions.
    pub no: Option<String>,
}

/// The same, read.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways {
    http: Option<Url>,
    https: Option<Url>,
    exceptions: Vec<Exception>,
}

/// One entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    Address(IpAddr),
    Network(Network),
    /// In small letters.
    Domain {
        name: String,
        itself: bool,
    },
}

impl Proxies {
    /// Reads them; the error names the variable.
    pub(super) fn read(&self) -> Result<Ways, String> {
        let exceptions = self.no.as_deref().unwrap_or_default().split([',', ' ']).filter_map(Exception::parse);
        Ok(Ways {
            http: proxy("HTTP_PROXY", self.http.as_deref())?,
            https: proxy("HTTPS_PROXY", self.https.as_deref())?,
            exceptions: exceptions.collect(),
        })
    }
}

/// A proxy's URL; a bare `host:port` is one of http.
fn proxy(variable: &str, text: Option<&str>) -> Result<Option<Url>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    // The URL may hold a password: it is not repeated.
    let url = Url::parse(&full).map_err(|error| format!("{variable} is no URL of a proxy: {error}"))?;
    match url.scheme() {
        "http" | "https" => Ok(Some(url)),
        other => Err(format!("{variable} names a proxy of kind {other}: only http and https are supported")),
    }
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Self { hosts: Hosts::All, port: None });
        }
        if let Some(network) = Network::parse(&text) {
            return Some(Self { hosts: Hosts::Network(network), port: None });
        }
        if let Ok(address) = text.parse() {
            return Some(Self { hosts: Hosts::Address(address), port: None });
        }
        let (host, port) = match text.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) => (host.to_owned(), Some(port)),
            Some(_) | None => (text, None),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let hosts = match bare.parse() {
            Ok(address) => Hosts::Address(address),
            Err(_) => {
                let below = host.strip_prefix('*').unwrap_or(&host);
                let name = below.trim_start_matches('.').to_owned();
                Hosts::Domain { itself: !below.starts_with('.'), name }
            }
        };
        Some(Self { hosts, port })
    }

    fn covers(&self, host: &Host<&str>, port: Option<u16>) -> bool {
        let address = match host {
            Host::Ipv4(address) => Some(IpAddr::V4(*address)),
            Host::Ipv6(address) => Some(IpAddr::V6(*address)),
            Host::Domain(_) => None,
        };
        let covered = match (&self.hosts, host) {
            (Hosts::All, _) => true,
            (Hosts::Address(own), _) => address == Some(*own),
            (Hosts::Network(network), _) => address.is_some_and(|address| network.contains(address)),
            (Hosts::Domain { name, itself }, Host::Domain(host)) => match host.strip_suffix(name.as_str()) {
                Some("") => *itself,
                Some(below) => below.ends_with('.'),
                None => false,
            },
            (Hosts::Domain { .. }, Host::Ipv4(_) | Host::Ipv6(_)) => false,
        };
        covered && (self.port.is_none() || self.port == port)
    }
}

impl Ways {
    /// The proxy for a URL, if it goes through one.
    pub(super) fn through(&self, url: &Url) -> Option<&Url> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http }.as_ref()?;
        let host = url.host()?;
        let own = match host {
            Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        let port = url.port_or_known_default();
        let direct = own || self.exceptions.iter().any(|exception| exception.covers(&host, port));
        (!direct).then_some(proxy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(no: &str) -> Ways {
        let proxies = Proxies {
            http: Some("plain:3128".to_owned()),
            https: Some("http://u:p@secure.example:8080".to_owned()),
            no: Some(no.to_owned()),
        };
        proxies.read().expect("valid")
    }

    #[test]
    fn exceptions_mean_what_they_mean_elsewhere() {
        let direct = |no: &str, url: &str| ways(no).through(&Url::parse(url).expect(url)).is_none();
        for (no, url) in [
            ("*", "https://any.example/"),
            ("a.example,reg.example", "https://reg.example/v2/"),
            ("reg.example", "https://deep.in.reg.example/"),
            (" reg.example , b ", "https://reg.example/"),
            ("REG.example", "https://reg.EXAMPLE/"),
            (".corp.example", "https://reg.corp.example/"),
            ("*.corp.example", "https://reg.corp.example/"),
            ("reg.example:5000", "https://reg.example:5000/"),
            ("reg.example:443", "https://reg.example/"),
            ("10.0.0.0/8", "http://10.1.2.3:5000/"),
            ("10.1.2.3", "http://10.1.2.3/"),
            ("10.1.2.3:5000", "http://10.1.2.3:5000/"),
            ("fd00::/8", "http://[fd12::1]/"),
            ("fd12::1", "http://[fd12::1]:5000/"),
            ("[fd12::1]:5000", "http://[fd12::1]:5000/"),
            ("", "https://localhost:5000/"),
            ("", "http://127.0.0.9/"),
            ("", "http://[::1]:5000/"),
        ] {
            assert!(direct(no, url), "NO_PROXY={no} keeps {url} from the proxy");
        }
        for (no, url) in [
            ("", "https://reg.example/"),
            ("reg.example", "https://notreg.example/"),
            ("reg.example", "https://example/"),
            (".corp.example", "https://corp.example/"),
            ("*.corp.example", "https://corp.example/"),
            ("reg.example:5000", "https://reg.example/"),
            ("reg.example:5000", "https://reg.example:5001/"),
            ("10.0.0.0/8", "http://11.1.2.3/"),
            ("10.0.0.0/8", "http://ten.example/"),
            ("10.1.2.3:5000", "http://10.1.2.3/"),
        ] {
            assert!(!direct(no, url), "NO_PROXY={no} does not keep {url} from the proxy");
        }
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let through = |url: &str| ways("").through(&Url::parse(url).expect(url)).map(ToString::to_string);
        assert_eq!(through("http://a.example/").as_deref(), Some("http://plain:3128/"));
        assert_eq!(through("https://a.example/").as_deref(), Some("http://u:p@secure.example:8080/"));
        let read = |text: &str| Proxies { https: Some(text.to_owned()), ..Proxies::default() }.read();
        assert!(read("").is_ok_and(|ways| ways.https.is_none()));
        assert!(read("socks5://u:secret@p:1").is_err_and(|e| e.contains("kind socks5") && !e.contains("secret")));
        assert!(read("http://u:secret@:x").is_err_and(|e| e.starts_with("HTTPS_PROXY is no") && !e.contains("secret")));
    }
}
