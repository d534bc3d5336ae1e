//! One registry host: its scheme, its HTTP client, who we are there, and one way to send a request.
//!
//! [`Host::send`] is the only place where requests to registries leave: it adds authorization (`token.rs`), answers
//! challenges, retries what may be retried and leaves the meaning of the status to the caller. Redirects go elsewhere
//! without our credentials. Nothing here waits for ever: a line on which too little moves is given up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use super::answer::{is_transient, retry_after};
use super::body::{self, Beat, Body};
use super::challenge::Scopes;
use super::credentials::Credential;
use super::error::{Error, shown};
use super::options::{HostOptions, Options};
use super::pace::Pace;
use super::token::Auth;

const USER_AGENT: &str = concat!("rbuild/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server that may not speak TLS gets to say so.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_REDIRECTS: usize = 10;
/// A registry that has got all of a body may need this many times longer than any other silence: it hashes what came, and
/// buffers on the way may still be full.
const DIGESTION: u32 = 4;

pub(super) struct Host {
    /// As in references, e.g. `docker.io`.
    name: String,
    /// Where it really is, e.g. `registry-1.docker.io`.
    pub(super) address: String,
    options: HostOptions,
    loopback: bool,
    pub(super) shared: Arc<Options>,
    client: OnceCell<(reqwest::Client, &'static str)>,
    credential: OnceCell<Option<Credential>>,
    pub(super) auth: Mutex<Auth>,
    /// It broke off, or gave other bytes than it should: as a mirror it is of no more use.
    bad: AtomicBool,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A request that can be sent more than once.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    pub(super) scopes: Scopes,
    /// Not when the URL leads to somebody else's host.
    pub(super) authorize: bool,
    /// Whether sending it twice does no harm.
    pub(super) repeat: bool,
    /// Whether somebody else has it, too: then nobody waits for a host that is not there.
    pub(super) dispensable: bool,
}

impl Call {
    pub(super) fn new(method: Method, url: Url, scopes: Scopes) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: Body::Empty,
            scopes,
            authorize: true,
            repeat: true,
            dispensable: false,
        }
    }

    pub(super) fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        // Media types and ranges come from documents; one that is no header value is sent as nothing.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(super) fn body(self, body: Body) -> Self {
        Self { body, ..self }
    }
}

impl Host {
    pub(super) fn new(name: &str, options: HostOptions, shared: Arc<Options>) -> Self {
        let address = if name == "docker.io" { "registry-1.docker.io" } else { name };
        Self {
            name: name.to_owned(),
            address: address.to_owned(),
            options,
            loopback: is_loopback(name),
            shared,
            client: OnceCell::new(),
            credential: OnceCell::new(),
            auth: Mutex::default(),
            bad: AtomicBool::new(false),
        }
    }

    /// Whether `authority` (`host[:port]` of a URL) is this host.
    pub(super) fn is_at(&self, authority: &str) -> bool {
        let default_port =
            |text: &str| text.strip_suffix(":443").or_else(|| text.strip_suffix(":80")).unwrap_or(text).to_owned();
        default_port(&self.address.to_ascii_lowercase()) == default_port(authority)
    }

    /// The URL of `path` below `/v2/`.
    pub(super) async fn url(&self, path: &str) -> Result<Url, Error> {
        let (_, scheme) = self.client().await?;
        Url::parse(&format!("{scheme}://{}/v2/{path}", self.address)).map_err(|error| self.fault(&error))
    }

    pub(super) fn fault(&self, message: &dyn fmt::Display) -> Error {
        Error::Options { host: self.name.clone(), message: message.to_string() }
    }

    /// Sends a request until there is an answer worth reading: not 401 while we have something better to offer, and
    /// not a transient failure while there is patience.
    pub(super) async fn send(&self, call: &Call) -> Result<Response, Error> {
        if self.shared.offline {
            return Err(Error::Offline(shown(&call.url)));
        }
        let (mut attempt, mut challenged) = (0, 0);
        loop {
            let authorization = if call.authorize { self.authorization(&call.scopes).await? } else { None };
            let outcome = self.send_once(call, authorization.as_ref()).await;
            let pause = match &outcome {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && call.authorize && challenged < 2 => {
                    challenged += 1;
                    if self.answer_challenge(response, &call.scopes, authorization.as_ref()).await? {
                        continue;
                    }
                    None
                }
                Ok(response) if call.repeat && is_transient(response.status()) => {
                    attempt += 1;
                    self.shared.retry.pause(attempt, retry_after(response))
                }
                Err(error) if call.dispensable && error.is_no_connection() => {
                    self.distrust();
                    None
                }
                Err(error) if call.repeat => self.shared.retry.after(&mut attempt, error),
                Ok(_) | Err(_) => None,
            };
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return outcome,
            }
        }
    }

    async fn send_once(&self, call: &Call, authorization: Option<&HeaderValue>) -> Result<Response, Error> {
        let (client, _) = self.client().await?;
        let mut request = client.request(call.method.clone(), call.url.clone()).headers(call.headers.clone());
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let beat = Arc::new(Beat::default());
        request = match (call.body.size(), call.method.clone()) {
            (0, Method::POST | Method::PUT) => request.header(header::CONTENT_LENGTH, 0),
            (0, _) => request,
            (size, _) => request.header(header::CONTENT_LENGTH, size).body(body::start(&call.body, &beat)),
        };
        let sent = self.attentively(&call.method, &call.url, Some(&beat), request.send()).await?;
        sent.map_err(|error| Error::transport(&call.method, &call.url, error))
    }

    /// Waits for an answer as long as something moves: what is sent counts too, and a slow line is no reason to give up.
    pub(super) async fn attentively<T>(
        &self,
        method: &Method,
        url: &Url,
        beat: Option<&Beat>,
        work: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let silence = self.shared.retry.silence;
        let mut work = std::pin::pin!(work);
        let (mut heard, mut quiet) = (0, 0);
        loop {
            if let Ok(done) = tokio::time::timeout(silence, &mut work).await {
                return Ok(done);
            }
            let now = beat.map_or(0, Beat::count);
            quiet = if now == heard { quiet + 1 } else { 0 };
            heard = now;
            let patience = if beat.is_some_and(Beat::is_over) { DIGESTION } else { 1 };
            if quiet >= patience {
                return Err(Error::silent(method, url, silence * quiet));
            }
        }
    }

    /// The next piece of an answer's body.
    pub(super) async fn piece(
        &self,
        method: &Method,
        response: &mut Response,
        pace: &mut Pace,
    ) -> Result<Option<Vec<u8>>, Error> {
        let silence = self.shared.retry.silence;
        let begun = tokio::time::Instant::now();
        match tokio::time::timeout(pace.patience(silence), response.chunk()).await {
            Ok(Ok(piece)) => {
                pace.note(begun.elapsed(), piece.as_ref().map_or(0, |piece| piece.len() as u64));
                Ok(piece.map(Vec::from))
            }
            Ok(Err(error)) => Err(Error::transport(method, response.url(), error)),
            Err(_) => Err(match pace.moved() {
                0 => Error::silent(method, response.url(), silence),
                bytes => Error::slow(method, response.url(), silence, bytes),
            }),
        }
    }

    /// The client and the scheme; the first call finds out which one an insecure host speaks.
    pub(super) async fn client(&self) -> Result<&(reqwest::Client, &'static str), Error> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<(reqwest::Client, &'static str), Error> {
        let client = self.build()?;
        if self.options.plain_http {
            return Ok((client, "http"));
        }
        if !self.is_lax() {
            return Ok((client, "https"));
        }
        let probe = client
            .get(format!("https://{}/v2/", self.address))
            .timeout(PROBE_TIMEOUT.min(self.shared.retry.silence))
            .send()
            .await;
        let no_tls = |error: &reqwest::Error| {
            // One that refuses us in the words of TLS, or after they were exchanged, speaks it.
            let refused = error_chain(error).contains("received fatal alert");
            !refused && (error.is_connect() || error.is_timeout())
        };
        Ok((client, if probe.is_err_and(|error| no_tls(&error)) { "http" } else { "https" }))
    }

    /// Whether this host's certificate is not looked at: what comes from it is still checked by digest. This machine needs
    /// none, unless somebody says which one it has.
    pub(super) fn is_lax(&self) -> bool {
        self.options.insecure || self.options.plain_http || (self.loopback && self.options.ca.is_empty())
    }

    fn build(&self) -> Result<reqwest::Client, Error> {
        let fault = |error: reqwest::Error| self.fault(&error_chain(&error));
        if let Some(message) = &self.options.fault {
            return Err(self.fault(message));
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
            .referer(false)
            .no_proxy();
        let ways = self.shared.proxies.read().map_err(|message| self.fault(&message))?;
        builder = builder.proxy(reqwest::Proxy::custom(move |url| ways.through(url).cloned()));
        if self.is_lax() {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        let mut roots = Vec::new();
        for pem in self.options.ca.iter().chain(&self.shared.ca) {
            roots.extend(reqwest::Certificate::from_pem_bundle(pem).map_err(fault)?);
        }
        if !roots.is_empty() && !self.is_lax() {
            builder = builder.tls_certs_merge(roots);
        }
        if let Some(pem) = &self.options.identity {
            builder = builder.identity(reqwest::Identity::from_pem(pem).map_err(fault)?);
        }
        builder.build().map_err(fault)
    }

    pub(super) async fn credential(&self) -> Result<Option<&Credential>, Error> {
        let lookup = async || {
            let (credentials, name) = (self.shared.credentials.clone(), self.name.clone());
            // A helper is a process; it must not hold up the network thread.
            let looked_up = tokio::task::spawn_blocking(move || credentials.lookup(&name)).await;
            match looked_up {
                Ok(found) => Ok(found?),
                Err(_) => Err(self.fault(&"the credential helper panicked")),
            }
        };
        self.credential.get_or_try_init(lookup).await.map(Option::as_ref)
    }

    /// Whether nobody's credential is used.
    pub(super) fn is_anonymous(&self) -> bool {
        !self.credential.get().is_some_and(Option::is_some)
    }

    /// What somebody who was refused can do.
    pub(super) fn login_help(&self) -> String {
        let name = &self.name;
        if self.is_anonymous() {
            format!("nothing is known about who you are at {name}: `rbuild login {name}`")
        } else {
            format!("the credential for {name} in config.json was not enough: `rbuild login {name}` changes it")
        }
    }

    /// Notes that it cannot be relied on.
    pub(super) fn distrust(&self) {
        self.bad.store(true, Ordering::Relaxed);
    }

    /// Whether it may still be asked instead of another.
    pub(super) fn is_trusted(&self) -> bool {
        !self.bad.load(Ordering::Relaxed)
    }

    /// As references call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the registry takes our credential. A token server may give a token to be kept instead of the password.
    pub(super) async fn verify(&self) -> Result<Option<String>, Error> {
        let call = Call::new(Method::GET, self.url("").await?, Scopes::default());
        let response = self.send(&call).await?;
        if !response.status().is_success() {
            return Err(self.refusal("login", self.name.clone(), &Method::GET, response).await);
        }
        Ok(self.auth.lock().await.identity.take())
    }
}

pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Whether a `host[:port]` is this machine, where plain http is nothing to be afraid of.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised() {
        for host in ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:80", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "localhost.example", "128.0.0.1", "[fe80::1]", "10.0.0.1:5000"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
