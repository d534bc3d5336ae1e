//! Signature Version 4 in the query of a URL, over an unsigned payload. Pure: keys and time are handed in.

use std::time::SystemTime;

use jiff::Timestamp;
use rbuild_cache::digest::Sha256;
use reqwest::Method;
use sha2::Digest as _;
use url::Url;

use super::Keys;

/// A request as far as its signature is concerned.
pub(super) struct Request<'a> {
    pub(super) method: &'a Method,
    /// Where to, without a query.
    pub(super) url: Url,
    /// Parameters of the operation: names in order, all of them in lower case.
    pub(super) query: &'a [(&'a str, String)],
    /// Headers besides `host` that are sent and have to be signed: names in lower case and in order.
    pub(super) headers: &'a [(&'a str, String)],
}

impl Request<'_> {
    /// The URL with its query; signed for some seconds from `now` on if there are keys.
    pub(super) fn signed(
        self,
        keys: Option<&Keys>,
        region: &str,
        now: SystemTime,
        expires: u32,
    ) -> Result<Url, jiff::Error> {
        let mut url = self.url;
        let own = self.query.iter().map(|(name, value)| format!("{name}={}", escaped(value, true)));
        let Some(keys) = keys else {
            let query = own.collect::<Vec<_>>().join("&");
            url.set_query((!query.is_empty()).then_some(&query));
            return Ok(url);
        };
        let time = Timestamp::try_from(now)?;
        let (stamp, day) = (time.strftime("%Y%m%dT%H%M%SZ").to_string(), time.strftime("%Y%m%d").to_string());
        let scope = format!("{day}/{region}/s3/aws4_request");
        let host = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let headers: Vec<(&str, &str)> = std::iter::once(("host", host.as_str()))
            .chain(self.headers.iter().map(|(n, v)| (*n, v.as_str())))
            .collect();
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let mut query = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", format!("{}/{scope}", keys.id)),
            ("X-Amz-Date", stamp.clone()),
            ("X-Amz-Expires", expires.to_string()),
        ];
        query.extend(keys.token.iter().map(|token| ("X-Amz-Security-Token", token.clone())));
        query.push(("X-Amz-SignedHeaders", names.clone()));
        let signing = query.iter().map(|(name, value)| format!("{name}={}", escaped(value, true)));
        // Capitals sort before small letters, so the order is that of the names.
        let query = signing.chain(own).collect::<Vec<_>>().join("&");
        let lines = headers.iter().fold(String::new(), |lines, (name, value)| format!("{lines}{name}:{value}\n"));
        let request = format!("{}\n{}\n{query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD", self.method, url.path());
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", Sha256::of(request.as_bytes()).hex());
        let mut key = format!("AWS4{}", keys.secret).into_bytes();
        for part in [day.as_str(), region, "s3", "aws4_request"] {
            key = hmac(&key, part.as_bytes()).to_vec();
        }
        let signature = hmac(&key, text.as_bytes()).iter().fold(String::new(), |hex, b| format!("{hex}{b:02x}"));
        url.set_query(Some(&format!("{query}&X-Amz-Signature={signature}")));
        Ok(url)
    }
}

/// RFC 2104 over SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::of(key).0);
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let keyed = |pad: u8, message: &[u8]| -> [u8; 32] {
        let mut hasher = sha2::Sha256::new();
        hasher.update(block.map(|b| b ^ pad));
        hasher.update(message);
        hasher.finalize().into()
    };
    keyed(0x5c, &keyed(0x36, message))
}

/// Percent-encoding as signatures want it; a path keeps its slashes.
pub(super) fn escaped(text: &str, slashes: bool) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(b as char),
            b'/' if !slashes => out.push('/'),
            b => out += &format!("%{b:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn signatures_are_those_of_the_documentation() {
        // "Authenticating Requests: Using Query Parameters" of Amazon's S3 API reference.
        let keys = Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        };
        let url = Url::parse("https://examplebucket.s3.amazonaws.com/test.txt").expect("valid");
        let request = Request { method: &Method::GET, url, query: &[], headers: &[] };
        let now = UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let signed = request.signed(Some(&keys), "us-east-1", now, 86_400).expect("valid").to_string();
        let signature = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert!(signed.ends_with(signature), "{signed}");
    }

    #[test]
    fn parameters_and_headers_are_signed() {
        let url = Url::parse("http://127.0.0.1:9000/b/k").expect("valid");
        let query = [("partNumber", "1".to_owned()), ("uploadId", "a/b".to_owned())];
        let headers = [("x-amz-copy-source", "b/k".to_owned())];
        let request = |query| Request { method: &Method::PUT, url: url.clone(), query, headers: &headers };
        let plain = request(&query).signed(None, "r", UNIX_EPOCH, 1).expect("valid");
        assert_eq!(plain.as_str(), "http://127.0.0.1:9000/b/k?partNumber=1&uploadId=a%2Fb");
        let keys = Keys { id: "AK".to_owned(), secret: "SK".to_owned(), token: None };
        let signed = request(&query).signed(Some(&keys), "r", UNIX_EPOCH, 1).expect("valid").to_string();
        assert!(signed.contains("&X-Amz-SignedHeaders=host%3Bx-amz-copy-source&partNumber=1&uploadId=a%2Fb&X-Amz-Sig"));
        let other = [("partNumber", "2".to_owned()), ("uploadId", "a/b".to_owned())];
        let other = request(&other).signed(Some(&keys), "r", UNIX_EPOCH, 1).expect("valid").to_string();
        let signature = |url: &str| url.rsplit_once('=').map(|(_, signature)| signature.to_owned());
        assert_ne!(signature(&signed), signature(&other));
    }
}
