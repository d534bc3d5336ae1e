//! What a [`Client`](super::Client) is told once: hosts, certificates, mirrors, proxies, credentials, patience.
//!
//! Plain data, decided by `cli`; nothing here reads a file or the environment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::credentials::Credentials;
use super::error::Error;
use super::proxies::Proxies;
use crate::event::Progress;

/// Everything a client needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Special treatment per registry host as it stands in references (`docker.io`, `reg.example:5000`).
    pub hosts: BTreeMap<String, HostOptions>,
    /// Special treatment per part of the name space; of several that match, the longest counts.
    pub rules: Vec<Rule>,
    /// Hosts given as addresses in these networks are insecure.
    pub insecure_nets: Vec<Network>,
    /// More root certificates for every host, PEM.
    pub ca: Vec<Vec<u8>>,
    /// Ask nobody: every request is an error.
    pub offline: bool,
    /// Ask token servers for a token to be kept instead of the password (`rbuild login`).
    pub keep_token: bool,
    /// Who we are.
    pub credentials: Credentials,
    /// How to get out.
    pub proxies: Proxies,
    /// Blobs in flight at once, both ways together.
    pub parallel: usize,
    /// How patient to be.
    pub retry: Retry,
    /// Hears of `[auth] …` vertices.
    pub progress: Progress,
    /// Signatures of buckets say when they were made.
    pub clock: fn() -> SystemTime,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            rules: Vec::new(),
            insecure_nets: Vec::new(),
            ca: Vec::new(),
            offline: false,
            keep_token: false,
            credentials: Credentials::none(),
            proxies: Proxies::default(),
            parallel: 6,
            retry: Retry::default(),
            progress: Progress::silent(),
            clock: || SystemTime::UNIX_EPOCH,
        }
    }
}

impl Options {
    /// The rule for a repository, given as `host/path`.
    pub(super) fn rule(&self, repository: &str) -> Option<&Rule> {
        self.rules.iter().filter(|rule| rule.covers(repository)).max_by_key(|rule| rule.prefix.len())
    }
}

/// Addresses that begin alike: `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// Parses `ADDRESS/BITS`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (IpAddr, u32) = (address.parse().ok()?, bits.parse().ok()?);
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Self { address, bits })
    }

    /// Whether `host[:port]` is an address in it.
    pub(super) fn has(&self, host: &str) -> bool {
        let bare = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        bare.parse().is_ok_and(|address| self.contains(address))
    }

    /// Whether an address is in it.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let beyond = |total: u32| total - self.bits;
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(host)) => {
                (net.to_bits() ^ host.to_bits()).checked_shr(beyond(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(host)) => {
                (net.to_bits() ^ host.to_bits()).checked_shr(beyond(128)).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// What containers-registries.conf(5) says about the names that begin with a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `host[:port][/path]`, or `*.domain` for all hosts below it.
    pub prefix: String,
    /// What takes the prefix's place to get the real name.
    pub location: Option<String>,
    /// Accept any certificate, and plain http if https cannot be had.
    pub insecure: bool,
    /// Nothing may be read or written there.
    pub blocked: bool,
    /// Tried first, in order, for reading.
    pub mirrors: Vec<Mirror>,
}

/// Another place for the repositories of a [`Rule`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// `host[:port][/prefix]`; takes the place of the rule's prefix.
    pub location: String,
    /// Accept any certificate, and plain http if https cannot be had.
    pub insecure: bool,
    /// What it is good for.
    pub good_for: GoodFor,
}

/// Which names a mirror is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GoodFor {
    /// Any.
    #[default]
    All,
    /// Those with a digest: a tag may be out of date there.
    Digests,
    /// Those with a tag.
    Tags,
}

impl Rule {
    fn covers(&self, repository: &str) -> bool {
        match self.prefix.strip_prefix("*.") {
            Some(domain) => {
                let host = repository.split('/').next().unwrap_or_default();
                host.strip_suffix(domain).is_some_and(|below| below.ends_with('.'))
            }
            None => repository.strip_prefix(self.prefix.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/')),
        }
    }

    /// `repository` with `location` instead of the prefix.
    pub(super) fn moved(&self, repository: &str, location: &str) -> String {
        let rest = if self.prefix.starts_with("*.") {
            repository.split_once('/').map_or("", |(_, path)| path)
        } else {
            repository.strip_prefix(self.prefix.as_str()).unwrap_or_default()
        };
        let (location, rest) = (location.trim_end_matches('/'), rest.trim_start_matches('/'));
        if rest.is_empty() { location.to_owned() } else { format!("{location}/{rest}") }
    }
}

/// How one registry differs from a public one with a good certificate.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// Never try https.
    pub plain_http: bool,
    /// Accept any certificate, and plain http if https cannot be had. Loopback hosts always have it.
    pub insecure: bool,
    /// More root certificates, PEM.
    pub ca: Vec<Vec<u8>>,
    /// Client certificate and key in one PEM.
    pub identity: Option<Vec<u8>>,
    /// Tried first, in order, for reading: `host[:port][/prefix]`, perhaps with `http://`.
    pub mirrors: Vec<String>,
    /// Why what is configured for it cannot be used: an error for whoever asks it, and for nobody else.
    pub fault: Option<String>,
}

/// When to try again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Attempts after the first; progress in a download counts anew.
    pub attempts: u32,
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// No pause of our own is longer.
    pub longest: Duration,
    /// A connection on which (next to) nothing moves for so long is dead; a slow one is not.
    pub silence: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(8),
            silence: Duration::from_secs(60),
        }
    }
}

/// A server may ask for a longer pause than ours, but not for any length.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

impl Retry {
    /// The pause before attempt number `attempt` (1 is the first repetition), or `None` to give up.
    pub(super) fn pause(self, attempt: u32, server: Option<Duration>) -> Option<Duration> {
        if attempt > self.attempts {
            return None;
        }
        let own = self.first.saturating_mul(1 << (attempt - 1).min(16)).min(self.longest);
        Some(server.map_or(own, |wanted| wanted.clamp(own, MAX_RETRY_AFTER.max(own))))
    }

    /// The pause after an error, which uses up a part of the patience; `None` to give up.
    pub(super) fn after(self, used: &mut u32, error: &Error) -> Option<Duration> {
        match error.cost_of_retry() {
            0 => None,
            cost => {
                *used += cost;
                self.pause(*used, error.retry_after())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_hosts() {
        let net = |text: &str| Network::parse(text).expect(text);
        assert!(net("10.0.0.0/8").has("10.9.8.7:5000") && !net("10.0.0.0/8").has("11.0.0.1"));
        assert!(net("0.0.0.0/0").has("1.2.3.4") && net("fd00::/8").has("[fd12::1]:443"));
        assert!(!net("fd00::/8").has("10.0.0.1") && !net("10.0.0.0/8").has("reg.example"));
        assert!(Network::parse("reg.example:5000").is_none() && Network::parse("10.0.0.0/33").is_none());
    }

    #[test]
    fn the_longest_rule_counts_and_moves_names() {
        let rule = |prefix: &str| Rule { prefix: prefix.to_owned(), ..Rule::default() };
        let rules = vec![rule("docker.io"), rule("docker.io/library"), rule("*.corp.example"), rule("a.example:5000")];
        let options = Options { rules, ..Options::default() };
        let found = |name: &str| options.rule(name).map(|rule| rule.prefix.as_str());
        assert_eq!(found("docker.io/library/alpine"), Some("docker.io/library"));
        assert_eq!(found("docker.io/libraryx/alpine"), Some("docker.io"));
        assert_eq!(found("x.y.corp.example/a"), Some("*.corp.example"));
        assert_eq!(found("corp.example/a"), None);
        assert_eq!(found("a.example/x"), None);
        let moved = |prefix: &str, name: &str, to: &str| rule(prefix).moved(name, to);
        assert_eq!(moved("docker.io", "docker.io/library/a", "m.example/hub/"), "m.example/hub/library/a");
        assert_eq!(moved("docker.io/library/a", "docker.io/library/a", "m.example/b"), "m.example/b");
        assert_eq!(moved("*.corp.example", "x.corp.example/a/b", "m.example"), "m.example/a/b");
    }

    #[test]
    fn pauses_double_up_to_the_limit() {
        let retry = Retry::default();
        let pauses: Vec<_> = (1..=6).map(|n| retry.pause(n, None).map(|d| d.as_millis())).collect();
        assert_eq!(pauses, [Some(500), Some(1000), Some(2000), Some(4000), Some(8000), None]);
        assert_eq!(retry.pause(1, Some(Duration::from_secs(20))), Some(Duration::from_secs(20)));
        assert_eq!(retry.pause(1, Some(Duration::from_secs(900))), Some(Duration::from_secs(60)));
    }
}
