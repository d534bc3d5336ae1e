//! Who we are at a host: name and password, or a token that a server of the registry's choice gives for them.
//!
//! Tokens are kept by what they are good for. One that is refused is replaced once a request; what a token server is sent
//! goes there over TLS or not at all.

use std::collections::BTreeMap;

use reqwest::header::{self, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::answer::{challenges, is_transient, message_of, retry_after};
use super::challenge::{Challenge, Scopes};
use super::credentials::{Credential, TOKEN_USER};
use super::error::{Error, shown};
use super::host::{Host, is_loopback};
use crate::event::Outcome;

/// The name we have at token servers.
const CLIENT: &str = "rbuild";

/// What is known about how a host wants to be asked.
#[derive(Default)]
pub(super) struct Auth {
    challenge: Option<Challenge>,
    tokens: BTreeMap<Scopes, HeaderValue>,
    /// What a token server gave to be used instead of the password.
    pub(super) identity: Option<String>,
}

/// What a token server gave.
struct Given {
    token: String,
    /// To be used instead of the password from now on.
    refresh: Option<String>,
}

/// A question to a token server: sent as often as needed.
enum Question {
    /// Parameters of the address, and perhaps a name and a password.
    Get(Vec<(&'static str, String)>, Option<(String, String)>),
    /// OAuth2: a form.
    Post(Vec<(&'static str, String)>),
}

impl Question {
    fn get(service: Option<&str>, scopes: &Scopes, login: Option<(&str, &str)>, keep: bool) -> Self {
        let mut query: Vec<_> = service.map(|service| ("service", service.to_owned())).into_iter().collect();
        query.extend(scopes.texts().map(|scope| ("scope", scope)));
        query.extend(login.map(|(username, _)| ("account", username.to_owned())));
        if keep {
            query.extend([("client_id", CLIENT.to_owned()), ("offline_token", "true".to_owned())]);
        }
        Self::Get(query, login.map(|(username, password)| (username.to_owned(), password.to_owned())))
    }

    fn post(service: &str, scopes: &Scopes, refresh: &str) -> Self {
        let texts: Vec<_> = scopes.texts().collect();
        Self::Post(vec![
            ("grant_type", "refresh_token".to_owned()),
            ("refresh_token", refresh.to_owned()),
            ("client_id", CLIENT.to_owned()),
            ("service", service.to_owned()),
            ("scope", texts.join(" ")),
        ])
    }

    fn method(&self) -> Method {
        match self {
            Self::Get(..) => Method::GET,
            Self::Post(_) => Method::POST,
        }
    }

    fn request(&self, client: &reqwest::Client, url: &Url) -> reqwest::RequestBuilder {
        match self {
            Self::Get(query, login) => {
                let mut url = url.clone();
                url.query_pairs_mut().extend_pairs(query);
                let request = client.get(url);
                match login {
                    Some((username, password)) => request.basic_auth(username, Some(password)),
                    None => request,
                }
            }
            Self::Post(form) => {
                let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
                client.post(url.clone()).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
            }
        }
    }
}

impl Host {
    /// The header for a request, if the host is known to want one.
    pub(super) async fn authorization(&self, scopes: &Scopes) -> Result<Option<HeaderValue>, Error> {
        let mut auth = self.auth.lock().await;
        match auth.challenge.clone() {
            None => Ok(None),
            Some(Challenge::Basic) => match self.credential().await? {
                Some(Credential::Basic { username, password }) => Ok(Some(self.basic(username, password)?)),
                Some(Credential::Bearer(token)) => Ok(Some(self.bearer(token)?)),
                Some(Credential::Identity { .. }) | None => Ok(None),
            },
            Some(Challenge::Bearer { realm, service, .. }) => {
                if let Some(token) = auth.tokens.get(scopes) {
                    return Ok(Some(token.clone()));
                }
                // The lock is held: others who need the same token wait for this one.
                let given = self.fetch_token(&realm, service.as_deref(), scopes).await?;
                let token = self.bearer(&given.token)?;
                auth.identity = given.refresh;
                auth.tokens.insert(scopes.clone(), token.clone());
                Ok(Some(token))
            }
        }
    }

    /// Takes note of what a 401 to a request with this `sent` authorization asks for. False if we have nothing more to offer.
    pub(super) async fn answer_challenge(
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
                let given = self.fetch_token(realm, service.as_deref(), &wider).await?;
                auth.identity = given.refresh;
                auth.tokens.insert(scopes.clone(), self.bearer(&given.token)?);
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

    async fn fetch_token(&self, realm: &str, service: Option<&str>, scopes: &Scopes) -> Result<Given, Error> {
        let credential = self.credential().await?;
        if let Some(Credential::Bearer(token)) = credential {
            return Ok(Given { token: token.clone(), refresh: None });
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
    ) -> Result<Given, Error> {
        let url = Url::parse(realm).map_err(|error| self.fault(&format!("token server {realm:?}: {error}")))?;
        let plain = url.scheme() != "https" && !url.host_str().is_some_and(is_loopback);
        if credential.is_some() && plain && !self.is_lax() {
            return Err(self.fault(&format!("refusing to send credentials to {} without TLS", shown(&url))));
        }
        let get = |login| Question::get(service, scopes, login, self.shared.keep_token);
        let question = match credential {
            Some(Credential::Identity { token, .. }) => {
                let oauth = Question::post(service.unwrap_or(&self.address), scopes, token);
                let answer = self.answer_of_token_server(&url, &oauth).await?;
                if !matches!(answer.0.as_u16(), 401 | 404 | 405) {
                    return self.read_token(answer, &url, scopes);
                }
                // Servers that know no OAuth2 take the token as a password.
                get(Some((TOKEN_USER, token)))
            }
            Some(Credential::Basic { username, password }) => get(Some((username, password))),
            Some(Credential::Bearer(_)) | None => get(None),
        };
        self.read_token(self.answer_of_token_server(&url, &question).await?, &url, scopes)
    }

    /// Asks until there is a whole answer, or patience ends.
    async fn answer_of_token_server(&self, url: &Url, question: &Question) -> Result<(StatusCode, Vec<u8>), Error> {
        let (client, _) = self.client().await?;
        let method = question.method();
        let mut attempt = 0;
        loop {
            let asked = async {
                let sent = self.attentively(&method, url, None, question.request(client, url).send()).await?;
                let response = sent.map_err(|error| Error::transport(&method, url, error))?;
                let (status, wanted) = (response.status(), retry_after(&response));
                Ok::<_, Error>((status, wanted, self.read_limited(response).await?))
            };
            let outcome = asked.await;
            let pause = match &outcome {
                Ok((status, wanted, _)) if is_transient(*status) => {
                    attempt += 1;
                    self.shared.retry.pause(attempt, *wanted)
                }
                Ok(_) => None,
                Err(error) => self.shared.retry.after(&mut attempt, error),
            };
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return outcome.map(|(status, _, body)| (status, body)),
            }
        }
    }

    fn read_token(&self, answer: (StatusCode, Vec<u8>), url: &Url, scopes: &Scopes) -> Result<Given, Error> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            refresh_token: Option<String>,
        }
        let (status, body) = answer;
        let (url, words) = (shown(url), message_of(&body));
        if matches!(status.as_u16(), 401 | 403) {
            let kind = if self.is_anonymous() { "anonymous" } else { "oauth" };
            let message = format!(
                "failed to authorize: failed to fetch {kind} token: unexpected status from token request to {url}: \
                 {status}{words}"
            );
            return Err(Error::Denied { what: scopes.to_string(), message, help: Some(self.login_help()) });
        }
        if !status.is_success() {
            return Err(Error::Status { method: "token".to_owned(), url, status, message: words, retry_after: None });
        }
        let fault = |words: String| Error::protocol(format_args!("token server {url}"), words);
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| fault(error.to_string()))?;
        let filled = |token: Option<String>| token.filter(|token| !token.is_empty());
        let token = filled(answer.access_token).or_else(|| filled(answer.token));
        let token = token.ok_or_else(|| fault("the answer holds no token".to_owned()))?;
        Ok(Given { token, refresh: filled(answer.refresh_token) })
    }
}
