//! Who we are to a bucket: keys that are known, or an endpoint that hands them out for some time, as containers of AWS have one.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Deserialize;
use url::Url;

use crate::registry::error::Error;

/// Keys are renewed so long before they end.
const MARGIN: Duration = Duration::from_secs(300);
/// The endpoint is on this machine or next to it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Tried so often: it may begin to listen only when the container does.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);

/// Who we are to the server. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Access key.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// Of temporary credentials.
    pub token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Hands out keys for some time. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyEndpoint {
    /// Where it is.
    pub url: Url,
    /// What it wants to see.
    pub authorization: Option<String>,
}

impl fmt::Debug for KeyEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyEndpoint").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// How requests are signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Not at all.
    #[default]
    Anonymous,
    /// With these.
    Keys(Keys),
    /// With what this gives.
    Endpoint(KeyEndpoint),
}

/// The keys of one bucket, as long as they are good.
#[derive(Debug)]
pub(super) struct KeyRing {
    credentials: Credentials,
    given: tokio::sync::Mutex<Option<Given>>,
}

#[derive(Clone, Debug)]
struct Given {
    keys: Keys,
    until: Option<SystemTime>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

impl KeyRing {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials, given: tokio::sync::Mutex::default() }
    }

    /// Keys that are good for some time from `now` on; `None` if requests are not signed.
    pub(super) async fn keys(&self, now: SystemTime) -> Result<Option<Keys>, Error> {
        let endpoint = match &self.credentials {
            Credentials::Anonymous => return Ok(None),
            Credentials::Keys(keys) => return Ok(Some(keys.clone())),
            Credentials::Endpoint(endpoint) => endpoint,
        };
        let mut given = self.given.lock().await;
        if let Some(Given { keys, until }) = given.as_ref()
            && until.is_none_or(|until| now + MARGIN < until)
        {
            return Ok(Some(keys.clone()));
        }
        let fresh = endpoint.ask().await?;
        Ok(Some(given.insert(fresh).keys.clone()))
    }

    /// What is said beside a refusal.
    pub(super) fn note(&self) -> &'static str {
        match self.credentials {
            Credentials::Anonymous => " (no keys were given; instance roles are not asked for any)",
            Credentials::Keys(_) | Credentials::Endpoint(_) => "",
        }
    }
}

impl KeyEndpoint {
    async fn ask(&self) -> Result<Given, Error> {
        let mut attempt = 1;
        loop {
            match self.ask_once().await {
                Err(Error::Protocol { .. }) if attempt < ATTEMPTS => tokio::time::sleep(PAUSE * attempt).await,
                done => return done,
            }
            attempt += 1;
        }
    }

    async fn ask_once(&self) -> Result<Given, Error> {
        let fault = |text: String| Error::protocol(format!("keys from {}", self.url), text);
        let transport = |error: reqwest::Error| fault(crate::registry::host::error_chain(&error));
        // What it says is secret: no proxy hears of it, and it sends nobody elsewhere.
        let client =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE);
        let mut request = client.build().map_err(transport)?.get(self.url.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header(reqwest::header::AUTHORIZATION, authorization);
        }
        let response = request.send().await.map_err(transport)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(transport)?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
            return Err(Error::Denied {
                what: format!("keys from {}", self.url),
                message: format!("{status}: {text}"),
                help: None,
            });
        }
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
        let keys = Keys { id: answer.access_key_id, secret: answer.secret_access_key, token: answer.token };
        let until = answer.expiration.map(|text| text.parse::<Timestamp>()).transpose();
        let until = until.map_err(|error| fault(format!("Expiration: {error}")))?;
        Ok(Given { keys, until: until.map(SystemTime::from) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Answers each request with the next of some bodies; the requests' headers.
    fn endpoint(answers: Vec<(&'static str, String)>) -> (Url, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let url = format!("http://{}/keys", listener.local_addr().expect("known"));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (stream, _) = listener.accept().expect("a request");
                let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                log.lock().expect("no panic").push(lines.collect::<Vec<_>>().join("\n"));
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                (&stream).write_all(answer.as_bytes()).expect("sent");
            }
        });
        (Url::parse(&url).expect("valid"), heard)
    }

    fn keys(id: &str, until: &str) -> (&'static str, String) {
        let text = format!(
            "{{\"AccessKeyId\":\"{id}\",\"SecretAccessKey\":\"S\",\"Token\":\"T\",\"Expiration\":\"{until}\",\"RoleArn\":\"r\"}}"
        );
        ("200 OK", text)
    }

    #[test]
    fn keys_are_asked_for_once_and_renewed_in_time() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let answers = vec![
            keys("one", "1970-01-01T02:00:00Z"),
            keys("two", "1970-01-01T09:00:00Z"),
            ("404 Not Found", "no role".to_owned()),
        ];
        let (url, heard) = endpoint(answers);
        let ring = KeyRing::new(Credentials::Endpoint(KeyEndpoint { url, authorization: Some("let me".to_owned()) }));
        let at = |hours: u64| {
            let keys = runtime.block_on(ring.keys(SystemTime::UNIX_EPOCH + Duration::from_secs(hours * 3600)));
            keys.map(|keys| keys.expect("given").id).map_err(|error| error.to_string())
        };
        assert_eq!(
            (at(0), at(1), at(2), at(3)),
            (Ok("one".into()), Ok("one".into()), Ok("two".into()), Ok("two".into()))
        );
        assert!(at(9).expect_err("refused").ends_with("/keys: 404 Not Found: no role"));
        let heard = heard.lock().expect("no panic");
        assert_eq!(heard.len(), 3);
        assert!(heard.iter().all(|request| request.contains("authorization: let me")), "{heard:?}");
        assert!(!format!("{ring:?}").contains("let me"));
    }
}
