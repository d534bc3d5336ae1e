//! One registry host: its scheme, its HTTP client, who we are there, and one way to send a request.
//!
//! [`Host::send`] is the only place where requests leave: it adds authorization, answers challenges, retries what may be
//! retried and leaves the meaning of the status to the caller. Redirects go elsewhere without our credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use tokio::io::AsyncSeekExt as _;
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use super::challenge::{self, Challenge, Scopes};
use super::credentials::Credential;
use super::error::{Error, shown};
use super::options::{HostOptions, Options, Proxies};
use crate::event::Outcome;

const USER_AGENT: &str = concat!("rbuild/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that says nothing for so long is dead; a slow one is not.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server that may not speak TLS gets to say so.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_REDIRECTS: usize = 10;
/// Enough for any error text or token.
const MAX_ANSWER: usize = 1 << 20;

pub(super) struct Host {
    /// As in references, e.g. `docker.io`.
    name: String,
    /// Where it really is, e.g. `registry-1.docker.io`.
    address: String,
    options: HostOptions,
    loopback: bool,
    shared: Arc<Options>,
    client: OnceCell<(reqwest::Client, &'static str)>,
    credential: OnceCell<Option<Credential>>,
    auth: Mutex<Auth>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Auth {
    challenge: Option<Challenge>,
    tokens: BTreeMap<Scopes, HeaderValue>,
}

/// A request that can be sent more than once.
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
}

#[derive(Clone)]
pub(super) enum Body {
    Empty,
    Bytes(Vec<u8>),
    File { path: PathBuf, size: u64 },
}

impl Call {
    pub(super) fn new(method: Method, url: Url, scopes: Scopes) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Body::Empty, scopes, authorize: true, repeat: true }
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

    fn fault(&self, message: &dyn fmt::Display) -> Error {
        Error::Options { host: self.name.clone(), message: message.to_string() }
    }

    /// Sends a request until there is an answer worth reading: not 401 while we have something better to offer, and
    /// not a transient failure while there is patience.
    pub(super) async fn send(&self, call: &Call) -> Result<Response, Error> {
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
                Err(Error::Transport { source, .. })
                    if call.repeat && !source.is_builder() && !source.is_redirect() =>
                {
                    attempt += 1;
                    self.shared.retry.pause(attempt, None)
                }
                _ => None,
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
        request = match &call.body {
            Body::Empty if matches!(call.method, Method::POST | Method::PUT) => {
                request.header(header::CONTENT_LENGTH, 0)
            }
            Body::Empty => request,
            Body::Bytes(bytes) => request.body(bytes.clone()),
            Body::File { path, size } => {
                let mut file = tokio::fs::File::open(path).await?;
                file.rewind().await?;
                request.header(header::CONTENT_LENGTH, *size).body(reqwest::Body::from(file))
            }
        };
        request.send().await.map_err(|error| Error::transport(&call.method, &call.url, error))
    }

    /// The client and the scheme; the first call finds out which one an insecure host speaks.
    async fn client(&self) -> Result<&(reqwest::Client, &'static str), Error> {
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
        let probe = client.get(format!("https://{}/v2/", self.address)).timeout(PROBE_TIMEOUT).send().await;
        match probe {
            Err(error) if error.is_connect() || error.is_request() || error.is_timeout() => Ok((client, "http")),
            _ => Ok((client, "https")),
        }
    }

    /// Whether this host's certificate is not looked at: what comes from it is still checked by digest.
    fn is_lax(&self) -> bool {
        self.options.insecure || self.options.plain_http || self.loopback
    }

    fn build(&self) -> Result<reqwest::Client, Error> {
        let fault = |error: reqwest::Error| self.fault(&error_chain(&error));
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
            .referer(false)
            .no_proxy();
        if !self.loopback {
            for proxy in proxies(&self.shared.proxies).map_err(fault)? {
                builder = builder.proxy(proxy);
            }
        }
        if self.is_lax() {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        let mut roots = Vec::new();
        for pem in &self.options.ca {
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

    async fn credential(&self) -> Result<Option<&Credential>, Error> {
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

    /// The header for a request, if the host is known to want one.
    async fn authorization(&self, scopes: &Scopes) -> Result<Option<HeaderValue>, Error> {
        let mut auth = self.auth.lock().await;
        match auth.challenge.clone() {
            None => Ok(None),
            Some(Challenge::Basic) => match self.credential().await? {
                Some(Credential::Basic { username, password }) => Ok(Some(self.basic(username, password)?)),
                Some(Credential::Bearer(token)) => Ok(Some(self.bearer(token)?)),
                Some(Credential::Identity(_)) | None => Ok(None),
            },
            Some(Challenge::Bearer { realm, service, .. }) => {
                if let Some(token) = auth.tokens.get(scopes) {
                    return Ok(Some(token.clone()));
                }
                // The lock is held: others who need the same token wait for this one.
                let token = self.fetch_token(&realm, service.as_deref(), scopes).await?;
                let token = self.bearer(&token)?;
                auth.tokens.insert(scopes.clone(), token.clone());
                Ok(Some(token))
            }
        }
    }

    /// Takes note of what a 401 to a request with this `sent` authorization asks for. False if we have nothing more to offer.
    async fn answer_challenge(
        &self,
        response: &Response,
        scopes: &Scopes,
        sent: Option<&HeaderValue>,
    ) -> Result<bool, Error> {
        let Some(challenge) = Challenge::parse(challenges(response)) else { return Ok(false) };
        let mut auth = self.auth.lock().await;
        let retry = match (&challenge, sent) {
            // The same name and password would be refused again.
            (Challenge::Basic, Some(_)) => false,
            (Challenge::Basic, None) => self.credential().await?.is_some(),
            (Challenge::Bearer { .. }, None) => true,
            // Somebody else has got a new token meanwhile.
            (Challenge::Bearer { .. }, Some(sent)) if auth.tokens.get(scopes).is_some_and(|token| token != sent) => {
                true
            }
            // What we sent was too old or too narrow.
            (Challenge::Bearer { realm, service, scope }, Some(_)) => {
                let wider = scope.clone().merge(scopes);
                let token = self.fetch_token(realm, service.as_deref(), &wider).await?;
                let token = self.bearer(&token)?;
                auth.tokens.insert(scopes.clone(), token);
                true
            }
        };
        auth.challenge = Some(challenge);
        Ok(retry)
    }

    fn basic(&self, username: &str, password: &str) -> Result<HeaderValue, Error> {
        use base64::Engine as _;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
        self.secret_header(&format!("Basic {pair}"))
    }

    fn bearer(&self, token: &str) -> Result<HeaderValue, Error> {
        self.secret_header(&format!("Bearer {token}"))
    }

    fn secret_header(&self, text: &str) -> Result<HeaderValue, Error> {
        let mut value =
            HeaderValue::from_str(text).map_err(|_| self.fault(&"the credential has characters no header can hold"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn fetch_token(&self, realm: &str, service: Option<&str>, scopes: &Scopes) -> Result<String, Error> {
        let credential = self.credential().await?;
        if let Some(Credential::Bearer(token)) = credential {
            return Ok(token.clone());
        }
        let vertex = self.shared.progress.vertex(format!("[auth] {scopes} token for {}", self.address), &[]);
        vertex.start();
        let result = self.ask_token_server(realm, service, scopes, credential).await;
        vertex.finish(match &result {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Error(error.to_string()),
        });
        result
    }

    async fn ask_token_server(
        &self,
        realm: &str,
        service: Option<&str>,
        scopes: &Scopes,
        credential: Option<&Credential>,
    ) -> Result<String, Error> {
        let url = Url::parse(realm).map_err(|error| self.fault(&format!("token server {realm:?}: {error}")))?;
        let plain = url.scheme() != "https" && !url.host_str().is_some_and(is_loopback);
        if credential.is_some() && plain && !self.is_lax() {
            return Err(self.fault(&format!("refusing to send credentials to {} without TLS", shown(&url))));
        }
        match credential {
            Some(Credential::Identity(refresh)) => {
                let form = url::form_urlencoded::Serializer::new(String::new())
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("refresh_token", refresh)
                    .append_pair("client_id", "rbuild")
                    .append_pair("service", service.unwrap_or(&self.address))
                    .append_pair("scope", &scopes.texts().collect::<Vec<_>>().join(" "))
                    .finish();
                let response = self
                    .token_request(Method::POST, &url, |request| {
                        request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone())
                    })
                    .await?;
                // Servers that know no OAuth2 take the token as a password.
                if !matches!(response.status().as_u16(), 401 | 404 | 405) {
                    return self.read_token(response, scopes, false).await;
                }
                let login = Some((TOKEN_LOGIN, refresh.as_str()));
                self.read_token(self.get_token(url, service, scopes, login).await?, scopes, false).await
            }
            Some(Credential::Basic { username, password }) => {
                let login = Some((username.as_str(), password.as_str()));
                self.read_token(self.get_token(url, service, scopes, login).await?, scopes, false).await
            }
            Some(Credential::Bearer(_)) | None => {
                self.read_token(self.get_token(url, service, scopes, None).await?, scopes, true).await
            }
        }
    }

    async fn get_token(
        &self,
        mut url: Url,
        service: Option<&str>,
        scopes: &Scopes,
        login: Option<(&str, &str)>,
    ) -> Result<Response, Error> {
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for scope in scopes.texts() {
                query.append_pair("scope", &scope);
            }
            if let Some((username, _)) = login {
                query.append_pair("account", username);
            }
        }
        self.token_request(Method::GET, &url, |request| match login {
            Some((username, password)) => request.basic_auth(username, Some(password)),
            None => request,
        })
        .await
    }

    async fn token_request(
        &self,
        method: Method,
        url: &Url,
        fill: impl Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Response, Error> {
        let (client, _) = self.client().await?;
        let mut attempt = 0;
        loop {
            let outcome = fill(client.request(method.clone(), url.clone())).send().await;
            let server = match &outcome {
                Ok(response) if is_transient(response.status()) => retry_after(response),
                Ok(_) | Err(_) => None,
            };
            attempt += 1;
            let again = outcome.as_ref().map_or(true, |response| is_transient(response.status()));
            match self.shared.retry.pause(attempt, server) {
                Some(pause) if again => tokio::time::sleep(pause).await,
                _ => return outcome.map_err(|error| Error::transport(&method, url, error)),
            }
        }
    }

    async fn read_token(&self, response: Response, scopes: &Scopes, anonymous: bool) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let status = response.status();
        let url = response.url().clone();
        let bytes = read_limited(response).await?;
        if matches!(status.as_u16(), 401 | 403) {
            let kind = if anonymous { "anonymous" } else { "oauth" };
            let message = format!("failed to authorize: failed to fetch {kind} token: {status}{}", message_of(&bytes));
            return Err(Error::Denied { what: scopes.to_string(), message });
        }
        if !status.is_success() {
            return Err(Error::Status {
                method: "token".to_owned(),
                url: shown(&url),
                status,
                message: message_of(&bytes),
            });
        }
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|error| Error::protocol(format_args!("token server {}", shown(&url)), error.to_string()))?;
        answer
            .access_token
            .filter(|token| !token.is_empty())
            .or(answer.token)
            .filter(|token| !token.is_empty())
            .ok_or_else(|| Error::protocol(format_args!("token server {}", shown(&url)), "the answer holds no token"))
    }

    /// Turns an answer nobody wanted into the error that says why. `action` is `pull` or `push`.
    pub(super) async fn refusal(&self, action: &str, what: String, method: &Method, response: Response) -> Error {
        let (status, url) = (response.status(), shown(response.url()));
        let reason = challenge::reason(challenges(&response));
        let body = read_limited(response).await.map(|bytes| message_of(&bytes)).unwrap_or_default();
        let message = reason.map_or(body, |reason| format!(": {reason}: authorization failed"));
        match status {
            StatusCode::NOT_FOUND => Error::NotFound(what),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let words = if message.is_empty() { format!(": {status}") } else { message };
                let message = format!(
                    "{action} access denied, repository does not exist or may require authorization: server message{words}"
                );
                Error::Denied { what, message }
            }
            status => Error::Status { method: method.to_string(), url, status, message },
        }
    }
}

/// The user name under which token servers of the first generation expect an identity token.
const TOKEN_LOGIN: &str = "<token>";

/// Reads an answer that should be short.
async fn read_limited(mut response: Response) -> Result<Vec<u8>, Error> {
    let (url, mut out) = (response.url().clone(), Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| Error::transport(&Method::GET, &url, error))? {
        if out.len() + chunk.len() > MAX_ANSWER {
            return Err(Error::TooLarge { what: shown(&url), limit: MAX_ANSWER as u64 });
        }
        out.extend_from_slice(&chunk);
    }
    Ok(out)
}

fn challenges(response: &Response) -> impl Iterator<Item = &str> {
    response.headers().get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok())
}

/// The errors of a registry's JSON answer as one text with `: ` before it, or nothing.
fn message_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Fault>,
        #[serde(default)]
        details: Option<String>,
    }
    #[derive(Deserialize)]
    struct Fault {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else { return String::new() };
    let faults = body.errors.iter().map(|fault| match fault.message.as_str() {
        "" => fault.code.to_lowercase(),
        message => format!("{}: {message}", fault.code.to_lowercase()),
    });
    faults.chain(body.details).fold(String::new(), |line, text| line + ": " + &text)
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After` in seconds, or as a date measured against the server's own clock.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = |name| response.headers().get(name)?.to_str().ok().map(str::trim);
    let wanted = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = wanted.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (then, now) = (httpdate::parse_http_date(wanted).ok()?, httpdate::parse_http_date(text(header::DATE)?).ok()?);
    then.duration_since(now).ok()
}

fn error_chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn proxies(proxies: &Proxies) -> Result<Vec<reqwest::Proxy>, reqwest::Error> {
    let except = format!("localhost,127.0.0.0/8,::1,{}", proxies.no.as_deref().unwrap_or_default());
    let none = reqwest::NoProxy::from_string(&except);
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let http = given(&proxies.http).map(reqwest::Proxy::http).transpose()?;
    let https = given(&proxies.https).map(reqwest::Proxy::https).transpose()?;
    Ok(http.into_iter().chain(https).map(|proxy| proxy.no_proxy(none.clone())).collect())
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

    #[test]
    fn registry_errors_become_one_line() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no"},{"code":"UNKNOWN","detail":{}}]}"#;
        assert_eq!(message_of(body), ": denied: no: unknown");
        assert_eq!(message_of(b"<html>"), "");
    }
}
