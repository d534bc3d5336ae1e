//! The registry client and OCI layouts: names in, verified bytes out, and the way back.
//!
//! Speaks the distribution protocol over reqwest. Knows no store, no Dockerfile and no config file: credentials,
//! certificates and mirrors are handed in as [`Options`]. Everything it returns has the digest and size it should have.
//!
//! ```text
//! Client ── repository(name) ──> Repository: Remote + Destination      (repository.rs, push.rs)
//!    └── Host: scheme, tokens, retries, one `send`                     (host.rs, token.rs, challenge.rs, answer.rs, pages.rs)
//! Bucket: Remote + Destination, of an S3-compatible server          (bucket/)
//! Layout: Remote + Destination                                         (layout.rs)
//! ```

mod answer;
mod blob;
mod body;
mod bucket;
mod challenge;
pub mod copy;
pub mod credentials;
mod download;
mod error;
mod host;
mod layout;
mod options;
mod pace;
mod pages;
mod proxies;
mod push;
mod remote;
mod repository;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use challenge::Scopes;
use host::Host;
use repository::Endpoint;

pub use blob::{BlobReader, BlobStream, Pump};
pub use bucket::{Bucket, BucketName, Credentials, Habits, KeyEndpoint, Keys};
pub use error::Error;
pub use layout::{IMAGE_NAME, LAYOUT_MARK, Layout, LayoutName, REF_NAME};
pub use options::{GoodFor, HostOptions, Mirror, Network, Options, Retry, Rule};
pub use proxies::Proxies;
pub use remote::{Answer, BlobSource, Destination, Remote, Selector, small_blob};
pub use repository::Repository;

use crate::oci::reference::Reference;

/// All registries, seen by one user. Clones share connections, tokens and the limit on transfers.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Arc<Options>,
    hosts: Mutex<BTreeMap<(String, bool), Arc<Host>>>,
    slots: Arc<tokio::sync::Semaphore>,
    /// Repositories whose certificates need not be good; that holds for all that is fetched from there later, too.
    insecure: Mutex<BTreeSet<String>>,
    /// Buckets that were opened, by the name that stands in image records.
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

impl Client {
    /// A client; nothing is connected, read or verified before it is needed.
    pub fn new(options: Options) -> Self {
        // The second client of a process finds it done; both mean the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let slots = Arc::new(tokio::sync::Semaphore::new(options.parallel.max(1)));
        let (hosts, insecure, buckets) = <_>::default();
        Self(Arc::new(Inner { options: Arc::new(options), hosts, slots, insecure, buckets }))
    }

    /// The repository of a name; its tag and digest play no part.
    pub fn repository(&self, name: &Reference) -> Repository {
        self.open(name, false)
    }

    /// The same, for a registry whose certificate is not to be verified (`registry.insecure=true`).
    pub fn insecure_repository(&self, name: &Reference) -> Repository {
        self.open(name, true)
    }

    /// A bucket; from now on it can be had by its name.
    pub fn bucket(&self, name: &BucketName) -> Result<Bucket, Error> {
        let server = name.server()?;
        let address = match (server.host_str().unwrap_or_default(), server.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let options = self.0.options.hosts.get(&address).cloned().unwrap_or_default();
        // The scheme is in the URL; there is nothing to find out.
        let options = HostOptions { plain_http: options.plain_http || server.scheme() == "http", ..options };
        let mut retry = self.0.options.retry;
        let host = match name.habits.max_attempts {
            None => self.host(&address, options),
            Some(attempts) => {
                retry.attempts = attempts.saturating_sub(1);
                let own = Options { retry, ..self.0.options.as_ref().clone() };
                Arc::new(Host::new(&address, options, Arc::new(own)))
            }
        };
        let bucket = Bucket::new(name, host, retry, self.0.options.clock, self.0.slots.clone());
        let mut buckets = self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.insert(name.to_string(), bucket.clone());
        Ok(bucket)
    }

    /// A bucket that was opened by this client.
    pub fn known_bucket(&self, name: &str) -> Result<Bucket, Error> {
        let buckets = self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || Error::protocol(name, "only builds that name it with --cache-from can read this bucket");
        buckets.get(name).cloned().ok_or_else(missing)
    }

    fn open(&self, name: &Reference, insecure: bool) -> Repository {
        let options = self.0.options.hosts.get(name.domain()).cloned().unwrap_or_default();
        let repository = name.repository();
        let insecure = self.is_insecure(&repository, insecure);
        let rule = self.0.options.rule(&repository);
        let by_flag = options.mirrors.iter().map(|mirror| self.mirror(mirror, name));
        let by_rule = rule.into_iter().flat_map(|rule| rule.mirrors.iter().map(move |mirror| (rule, mirror)));
        let by_rule = by_rule.map(|(rule, mirror)| {
            let place = self.place(&rule.moved(&repository, &mirror.location), mirror.insecure);
            Endpoint { namespace: Some(name.domain().to_owned()), good_for: mirror.good_for, ..place }
        });
        let mirrors = by_flag.chain(by_rule).collect();
        let insecure = insecure || rule.is_some_and(|rule| rule.insecure);
        let origin = match rule.and_then(|rule| Some(rule.moved(&repository, rule.location.as_deref()?))) {
            Some(moved) => self.place(&moved, insecure),
            None => self.endpoint(name.domain(), name.path(), insecure),
        };
        Repository {
            name: name.name_only(),
            origin: Endpoint { blocked: rule.is_some_and(|rule| rule.blocked), ..origin },
            mirrors,
            slots: self.0.slots.clone(),
            retry: self.0.options.retry,
            sessions: Arc::default(),
        }
    }

    /// Whether a repository is insecure; that it is `now` is kept in mind.
    fn is_insecure(&self, repository: &str, now: bool) -> bool {
        let mut known = self.0.insecure.lock().unwrap_or_else(PoisonError::into_inner);
        if now {
            known.insert(repository.to_owned());
        }
        now || known.contains(repository)
    }

    /// `host/path` as an endpoint.
    fn place(&self, text: &str, insecure: bool) -> Endpoint {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        self.endpoint(host, path, insecure)
    }

    fn endpoint(&self, domain: &str, path: &str, insecure: bool) -> Endpoint {
        let options = self.0.options.hosts.get(domain).cloned().unwrap_or_default();
        let insecure = insecure || self.0.options.insecure_nets.iter().any(|net| net.has(domain));
        let host = self.host(domain, HostOptions { insecure: options.insecure || insecure, ..options });
        Endpoint { host, path: path.to_owned(), namespace: None, good_for: GoodFor::All, blocked: false }
    }

    /// The names of the repositories of a registry, as far as it tells.
    pub async fn catalog(&self, domain: &str) -> Result<Vec<String>, Error> {
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            repositories: Option<Vec<String>>,
        }
        let host = self.endpoint(domain, "", false).host;
        let page = |bytes: &[u8]| serde_json::from_slice(bytes).map(|page: Page| page.repositories.unwrap_or_default());
        host.list(host.url("_catalog").await?, &Scopes::catalog(), domain, &page).await
    }

    /// Whether a registry takes the credential that the client has for it. A token server may give a token to be kept
    /// instead of the password.
    pub async fn login(&self, domain: &str) -> Result<Option<String>, Error> {
        self.endpoint(domain, "", false).host.verify().await
    }

    fn mirror(&self, mirror: &str, name: &Reference) -> Endpoint {
        let (plain_http, rest) = match mirror.strip_prefix("http://") {
            Some(rest) => (true, rest),
            None => (false, mirror.strip_prefix("https://").unwrap_or(mirror)),
        };
        let rest = rest.trim_end_matches('/');
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_prefix("v2").unwrap_or(prefix).trim_matches('/');
        let options = self.0.options.hosts.get(host).cloned().unwrap_or_default();
        let options = HostOptions { plain_http: options.plain_http || plain_http, ..options };
        let path = if prefix.is_empty() { name.path().to_owned() } else { format!("{prefix}/{}", name.path()) };
        let namespace = Some(name.domain().to_owned());
        Endpoint { host: self.host(host, options), path, namespace, good_for: GoodFor::All, blocked: false }
    }

    fn host(&self, name: &str, options: HostOptions) -> Arc<Host> {
        let mut hosts = self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let lax = options.insecure || options.plain_http;
        let make = || Arc::new(Host::new(name, options, self.0.options.clone()));
        hosts.entry((name.to_owned(), lax)).or_insert_with(make).clone()
    }
}
