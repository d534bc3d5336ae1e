//! What a registry's answers say: bodies read up to a limit, refusals as errors, and when to come again.

use std::time::Duration;

use reqwest::header::{self, HeaderMap};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;

use super::challenge;
use super::error::{Error, shown};
use super::host::Host;
use super::pace::Pace;

/// Enough for any error text, token, or page of a list.
const MAX_ANSWER: u64 = 1 << 20;

impl Host {
    /// Reads an answer that should be short.
    pub(super) async fn read_limited(&self, response: Response) -> Result<Vec<u8>, Error> {
        let what = shown(response.url());
        self.read(response, MAX_ANSWER, &what).await
    }

    /// Reads an answer into memory, if it is not more than `limit`.
    pub(super) async fn read(&self, mut response: Response, limit: u64, what: &str) -> Result<Vec<u8>, Error> {
        let (mut out, mut pace) = (Vec::new(), Pace::default());
        while let Some(piece) = self.piece(&Method::GET, &mut response, &mut pace).await? {
            if (out.len() + piece.len()) as u64 > limit {
                return Err(Error::TooLarge { what: what.to_owned(), limit });
            }
            out.extend_from_slice(&piece);
        }
        Ok(out)
    }

    /// Turns an answer nobody wanted into the error that says why. `action` is `pull`, `push` or `login`.
    pub(super) async fn refusal(&self, action: &str, what: String, method: &Method, response: Response) -> Error {
        let (status, url, retry_after) = (response.status(), shown(response.url()), retry_after(&response));
        let reason = challenge::reason(challenges(&response));
        let body = self.read_limited(response).await.map(|bytes| message_of(&bytes)).unwrap_or_default();
        let message = reason.map_or(body, |reason| format!(": {reason}: authorization failed"));
        match status {
            StatusCode::NOT_FOUND => Error::NotFound(what),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let words = if message.is_empty() { format!(": {status}") } else { message };
                let message = match action {
                    "login" => format!("login refused{words}"),
                    _ => format!(
                        "{action} access denied, repository does not exist or may require authorization: server message{words}"
                    ),
                };
                Error::Denied { what, message, help: Some(self.login_help()) }
            }
            status => Error::Status { method: method.to_string(), url, status, message, retry_after },
        }
    }
}

pub(super) fn challenges(response: &Response) -> impl Iterator<Item = &str> {
    response.headers().get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok())
}

/// The errors of a registry's JSON answer as one text with `: ` before it, or nothing.
pub(super) fn message_of(body: &[u8]) -> String {
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

pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After` in seconds, or as a date measured against the server's own clock.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    wait_of(response.headers())
}

fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let wanted = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = wanted.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (then, now) = (httpdate::parse_http_date(wanted).ok()?, httpdate::parse_http_date(text(header::DATE)?).ok()?);
    then.duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_errors_become_one_line() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no"},{"code":"UNKNOWN","detail":{}}]}"#;
        assert_eq!(message_of(body), ": denied: no: unknown");
        assert_eq!(message_of(b"<html>"), "");
    }

    #[test]
    fn a_server_says_when_to_come_again() {
        let wait = |after: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, after.parse().expect("a header"));
            if let Some(date) = date {
                headers.insert(header::DATE, date.parse().expect("a header"));
            }
            wait_of(&headers).map(|wait| wait.as_secs())
        };
        let now = "Wed, 21 Oct 2026 07:28:00 GMT";
        assert_eq!(wait("7", None), Some(7));
        assert_eq!(wait(" 7 ", None), Some(7));
        assert_eq!(wait("Wed, 21 Oct 2026 07:28:30 GMT", Some(now)), Some(30));
        assert_eq!(wait("Wed, 21 Oct 2026 07:27:00 GMT", Some(now)), None, "that is over");
        assert_eq!(wait("Wed, 21 Oct 2026 07:28:30 GMT", None), None, "by whose clock?");
        assert_eq!(wait("soon", Some(now)), None);
        assert_eq!(wait_of(&HeaderMap::new()), None);
    }
}
