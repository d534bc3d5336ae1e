//! The attributes of `type=s3`.

use jiff::SignedDuration;
use url::Url;

use super::{Given, SpecError, value};
use crate::registry::{BucketName, Credentials, Habits, Keys};

impl Given {
    /// A bucket and the names in it. What the environment says has been added by whoever knows it.
    pub(super) fn bucket(&mut self) -> Result<(BucketName, Vec<String>), SpecError> {
        let bucket = self.required("bucket", "s3")?;
        let region = self.required("region", "s3")?;
        let endpoint = self.take("endpoint_url").filter(|text| !text.is_empty());
        let parse = |text: String| {
            let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            url.ok_or_else(|| value("endpoint_url", &text, "expected a URL"))
        };
        let credentials = match (self.take("access_key_id"), self.take("secret_access_key"), self.take("session_token"))
        {
            (Some(id), Some(secret), token) => {
                Credentials::Keys(Keys { id, secret, token: token.filter(|text| !text.is_empty()) })
            }
            (None, None, None) => Credentials::Anonymous,
            (_, None, _) => {
                return Err(SpecError::Missing { name: "secret_access_key", option: self.option, kind: "s3" });
            }
            (None, _, _) => return Err(SpecError::Missing { name: "access_key_id", option: self.option, kind: "s3" }),
        };
        let names = self.take("name").unwrap_or_else(|| "rbuild".to_owned());
        let names: Vec<String> = names.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if names.is_empty() {
            return Err(value("name", "", "expected a name"));
        }
        let bucket = BucketName {
            bucket,
            region,
            endpoint: endpoint.map(parse).transpose()?,
            path_style: self.flag("use_path_style", false)?,
            prefix: self.take("prefix").unwrap_or_default(),
            blobs: self.take("blobs_prefix").unwrap_or_else(|| "blobs/".to_owned()),
            manifests: self.take("manifests_prefix").unwrap_or_else(|| "manifests/".to_owned()),
            credentials,
            habits: self.habits()?,
        };
        Ok((bucket, names))
    }

    fn habits(&mut self) -> Result<Habits, SpecError> {
        let mut habits = Habits::default();
        if let Some(text) = self.take("touch_refresh") {
            // Go, too, takes a bare zero.
            let age = if text == "0" { Ok(SignedDuration::ZERO) } else { text.parse::<SignedDuration>() };
            let age = age.ok().and_then(|age| age.try_into().ok());
            habits.touch_refresh = age.ok_or_else(|| value("touch_refresh", &text, "expected a duration like 24h"))?;
        }
        if let Some(number) = self.positive("upload_parallelism")? {
            habits.upload_parallelism = usize::from(number);
        }
        habits.max_attempts = self.positive("retry_max_attempts")?.map(u32::from);
        match self.take("retry_mode").as_deref() {
            // Pauses that double, within limits, and what the server asks for: that is what is meant.
            None | Some("standard") => {}
            Some("adaptive") => {
                return Err(value("retry_mode", "adaptive", "is not supported: rbuild retries as \"standard\" says"));
            }
            Some(other) => return Err(value("retry_mode", other, "expected standard")),
        }
        // Accept-Encoding is never part of a signature here.
        self.flag("disable_accept_encoding", false)?;
        Ok(habits)
    }

    fn positive(&mut self, name: &str) -> Result<Option<u16>, SpecError> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number > 0);
        number.map(Some).ok_or_else(|| value(name, &text, "expected a positive number"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{From, Source};
    use super::*;

    fn parsed(text: &str) -> Result<BucketName, String> {
        let pair = |text: &str| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).expect("k=v");
        let mut attributes = vec![("bucket".to_owned(), "b".to_owned()), ("region".to_owned(), "r".to_owned())];
        attributes.extend(text.split_whitespace().map(pair));
        match Source::parse("s3", &attributes).map_err(|error| error.to_string())?.from {
            From::Bucket { bucket, .. } => Ok(*bucket),
            From::Registry { .. } | From::Local { .. } => Err("another type".to_owned()),
        }
    }

    #[test]
    fn every_attribute_counts_or_is_refused() {
        let habits = parsed("touch_refresh=1h30m upload_parallelism=2 retry_max_attempts=3 retry_mode=standard");
        let expected =
            Habits { touch_refresh: Duration::from_secs(5400), upload_parallelism: 2, max_attempts: Some(3) };
        assert_eq!(habits.expect("valid").habits, expected);
        assert_eq!(parsed("touch_refresh=0").expect("valid").habits.touch_refresh, Duration::ZERO);
        assert_eq!(parsed("disable_accept_encoding=true").expect("valid").habits, Habits::default());
        for (text, words) in [
            ("touch_refresh=soon", "touch_refresh"),
            ("touch_refresh=-1h", "touch_refresh"),
            ("upload_parallelism=0", "upload_parallelism"),
            ("retry_max_attempts=x", "retry_max_attempts"),
            ("retry_mode=adaptive", "not supported"),
            ("retry_mode=wild", "retry_mode"),
            ("access_key_id=AK", "secret_access_key is required"),
            ("endpoint_url=host:9000x", "endpoint_url"),
            ("colour=red", "unknown attribute \"colour\""),
        ] {
            let error = parsed(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
