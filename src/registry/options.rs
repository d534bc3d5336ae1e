//! What a [`Client`](super::Client) is told once: hosts, certificates, mirrors, proxies, credentials, patience.
//!
//! Plain data, decided by `cli`; nothing here reads a file or the environment.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::credentials::Credentials;
use crate::event::Progress;

/// Everything a client needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Special treatment per registry host as it stands in references (`docker.io`, `reg.example:5000`).
    pub hosts: BTreeMap<String, HostOptions>,
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
            credentials: Credentials::none(),
            proxies: Proxies::default(),
            parallel: 6,
            retry: Retry::default(),
            progress: Progress::silent(),
            clock: || SystemTime::UNIX_EPOCH,
        }
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
}

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

/// When to try again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Attempts after the first; progress in a download counts anew.
    pub attempts: u32,
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// No pause of our own is longer.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 5, first: Duration::from_millis(500), longest: Duration::from_secs(8) }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let retry = Retry::default();
        let pauses: Vec<_> = (1..=6).map(|n| retry.pause(n, None).map(|d| d.as_millis())).collect();
        assert_eq!(pauses, [Some(500), Some(1000), Some(2000), Some(4000), Some(8000), None]);
        assert_eq!(retry.pause(1, Some(Duration::from_secs(20))), Some(Duration::from_secs(20)));
        assert_eq!(retry.pause(1, Some(Duration::from_secs(900))), Some(Duration::from_secs(60)));
    }
}
