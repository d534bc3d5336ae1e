//! Lists that registries give a page at a time: repositories and tags.

use std::collections::BTreeSet;

use reqwest::Method;
use reqwest::header::{HeaderMap, LINK};
use url::Url;

use super::challenge::Scopes;
use super::error::Error;
use super::host::{Call, Host};

/// Entries asked for at once; registries may give fewer.
const PAGE: &str = "1000";
/// Lists that go on for longer lead nowhere.
const MAX_PAGES: usize = 10_000;

impl Host {
    /// All pages of a list, from `first` on. `what` is the list's name in messages.
    pub(super) async fn list(
        &self,
        mut first: Url,
        scopes: &Scopes,
        what: &str,
        page: &(dyn Fn(&[u8]) -> serde_json::Result<Vec<String>> + Sync),
    ) -> Result<Vec<String>, Error> {
        first.query_pairs_mut().append_pair("n", PAGE);
        let (mut out, mut next, mut seen) = (Vec::new(), Some(first), BTreeSet::new());
        while let Some(url) = next.take() {
            if !seen.insert(url.clone()) || seen.len() > MAX_PAGES {
                return Err(Error::protocol(what, "the pages of the list lead in a circle"));
            }
            let response = self.send(&Call::new(Method::GET, url, scopes.clone())).await?;
            if !response.status().is_success() {
                return Err(self.refusal("pull", what.to_owned(), &Method::GET, response).await);
            }
            next = next_page(response.url(), response.headers());
            let bytes = self.read_limited(response).await?;
            out.extend(page(&bytes).map_err(|error| Error::protocol(what, error.to_string()))?);
        }
        Ok(out)
    }
}

/// Where a list goes on: `Link: </v2/_catalog?last=x>; rel="next"`. On the same server only, and as that was reached: some
/// that have a proxy before them do not know their own scheme and port.
fn next_page(here: &Url, headers: &HeaderMap) -> Option<Url> {
    let values = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let links = values.flat_map(|value| value.split('<').skip(1)).filter_map(|link| link.split_once('>'));
    let (target, _) = links.into_iter().find(|(_, parameters)| is_next(parameters))?;
    let target = here.join(target).ok().filter(|target| target.host() == here.host())?;
    let mut next = here.clone();
    next.set_path(target.path());
    next.set_query(target.query());
    Some(next)
}

/// Whether `; rel="next"` is among the parameters of a link.
fn is_next(parameters: &str) -> bool {
    let values = parameters.split([';', ',']).filter_map(|parameter| parameter.trim().strip_prefix("rel="));
    values.flat_map(|value| value.trim_matches('"').split(' ')).any(|relation| relation == "next")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_next_page_of_the_same_server() {
        let next = |link: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, link.parse().expect("a header"));
            next_page(&Url::parse("https://reg.example/v2/a/tags/list?n=2").expect("a URL"), &headers).map(String::from)
        };
        let second = "https://reg.example/v2/a/tags/list?last=b&n=2";
        for link in [
            r#"</v2/a/tags/list?last=b&n=2>; rel="next""#,
            "</v2/a/tags/list?last=b&n=2>;rel=next",
            "<?last=b&n=2>; rel=\"next\"",
            "<list?last=b&n=2>; title=x; rel=\"last next\"",
            "</v2/>; rel=\"prev\", </v2/a/tags/list?last=b&n=2>; rel=\"next\"",
            "<https://reg.example/v2/a/tags/list?last=b&n=2>; rel=\"next\"",
            // Not sent there in the clear.
            "<http://reg.example:5000/v2/a/tags/list?last=b&n=2>; rel=\"next\"",
        ] {
            assert_eq!(next(link).as_deref(), Some(second), "{link}");
        }
        for link in ["<https://evil.example/v2/>; rel=\"next\"", "</v2/>; rel=\"prev\"", "</v2/>; title=next", "x", "<"]
        {
            assert_eq!(next(link), None, "{link}");
        }
    }
}
