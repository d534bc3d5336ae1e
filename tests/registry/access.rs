//! Who we are at a registry and how we get there: passwords, tokens, redirects, proxies, certificates.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild::oci::reference::Reference;
use rbuild::registry::credentials::{Credentials, Helper};
use rbuild::registry::{Client, Destination as _, HostOptions, Options, Proxies, Remote as _, Retry};

use crate::server::{Reply, Scripted};
use crate::{base64, fetch, layer, noise, open, quick, run, tag, with_credentials};

#[test]
fn redirects_do_not_carry_credentials_to_others() {
    let body = noise(10);
    let data = body.clone();
    let storage = Scripted::start(move |_, _| Reply::new(200, data.clone()));
    let target = format!("http://{}/signed?key=1", storage.address);
    let server = Scripted::start(move |seen, _| match seen.header("authorization") {
        None => Reply::new(401, "").with("www-authenticate", "Basic realm=x"),
        Some(_) => Reply::new(307, "").with("location", &target),
    });
    let options =
        with_credentials(&format!(r#"{{"auths":{{"{}":{{"username":"u","password":"p"}}}}}}"#, server.address));
    let repository = open(options, &format!("{}/x", server.address));
    assert_eq!(fetch(&repository, &layer(&body)).expect("complete"), body);
    assert_eq!(storage.requests()[0].header("authorization"), None);
    assert_eq!(server.requests()[1].header("authorization"), Some(format!("Basic {}", base64("u:p")).as_str()));
}

/// A registry that wants tokens, and its token server in one. Tokens are the scopes asked for.
fn token_server(token_status: u16) -> Scripted {
    let address = Arc::new(std::sync::Mutex::new(String::new()));
    let own = address.clone();
    let server = Scripted::start(move |seen, n| {
        let url = url::Url::parse(&format!("http://x{}", seen.path)).expect("a path");
        if url.path() == "/token" {
            if seen.method == "POST" && token_status == 405 {
                return Reply::new(405, "");
            }
            let scopes: Vec<_> = url.query_pairs().filter(|(k, _)| k == "scope").map(|(_, v)| v.into_owned()).collect();
            let status = if token_status == 405 { 200 } else { token_status };
            return Reply::new(status, format!(r#"{{"token":"{}-{n}"}}"#, scopes.join("+").replace([':', ','], "_")));
        }
        let stale =
            seen.path.contains("stale") && seen.header("authorization").is_some_and(|token| token.ends_with("-0"));
        if seen.header("authorization").is_none() || stale {
            let realm = format!("http://{}/token", own.lock().expect("no panic"));
            let challenge = format!(r#"Bearer realm="{realm}",service="test",scope="repository:x:pull""#);
            return Reply::new(401, "").with("www-authenticate", challenge);
        }
        Reply::new(404, "")
    });
    address.lock().expect("no panic").clone_from(&server.address);
    server
}

#[test]
fn tokens_are_fetched_once_and_renewed_when_refused() {
    let server = token_server(200);
    let repository = open(quick(), &format!("{}/x", server.address));
    run(async {
        for name in ["a", "b", "stale"] {
            assert!(repository.resolve(&tag(name)).await.expect_err("empty registry").is_not_found());
        }
    });
    let token = "GET /token?service=test&scope=repository%3Ax%3Apull";
    assert_eq!(
        server.lines(),
        [
            "HEAD /v2/x/manifests/a",
            token,
            "HEAD /v2/x/manifests/a",
            "HEAD /v2/x/manifests/b",
            "HEAD /v2/x/manifests/stale",
            token,
            "HEAD /v2/x/manifests/stale",
        ]
    );
}

#[test]
fn a_mount_asks_for_both_repositories_in_one_token() {
    let server = token_server(200);
    let name = |path: &str| format!("{}/{path}", server.address);
    let repository = open(quick(), &name("app"));
    assert!(!run(repository.has_blob(&layer(b"x"), &[name("base")])).expect("answers"));
    let last = server.lines().into_iter().rfind(|line| line.starts_with("GET /token")).expect("asked");
    assert_eq!(last, "GET /token?service=test&scope=repository%3Aapp%3Apull%2Cpush&scope=repository%3Abase%3Apull");
}

#[test]
fn identity_tokens_go_to_the_token_server_as_oauth_or_as_a_password() {
    for (status, requests) in [(200, ["POST"].as_slice()), (405, ["POST", "GET"].as_slice())] {
        let server = token_server(status);
        let auth = format!(r#"{{"credHelpers":{{"{}":"x"}}}}"#, server.address);
        let helper: Helper = Arc::new(|_, _| Ok(r#"{"Username":"<token>","Secret":"refresh me"}"#.to_owned()));
        let credentials = Credentials::from_config(auth.as_bytes(), Some(helper)).expect("valid");
        let repository = open(Options { credentials, ..quick() }, &format!("{}/x", server.address));
        let result = run(async { repository.resolve(&tag("a")).await });
        assert!(result.expect_err("empty registry").is_not_found());
        let token: Vec<_> = server.requests().into_iter().filter(|seen| seen.path.starts_with("/token")).collect();
        assert_eq!(token.iter().map(|seen| seen.method.as_str()).collect::<Vec<_>>(), requests);
        let form = String::from_utf8(token[0].body.clone()).expect("text");
        assert!(form.contains("grant_type=refresh_token&refresh_token=refresh+me"), "{form}");
        if let Some(get) = token.get(1) {
            assert_eq!(get.header("authorization"), Some(format!("Basic {}", base64("<token>:refresh me")).as_str()));
        }
    }
}

#[test]
fn wrong_passwords_are_an_error_and_not_anonymous() {
    let server = token_server(401);
    let options =
        with_credentials(&format!(r#"{{"auths":{{"{}":{{"username":"u","password":"p"}}}}}}"#, server.address));
    let repository = open(options, &format!("{}/x", server.address));
    let error = run(async { repository.resolve(&tag("a")).await }).expect_err("refused").to_string();
    assert!(error.contains("401 Unauthorized"), "{error}");
    assert!(error.contains("failed to fetch oauth token: unexpected status from token request to http://"), "{error}");
}

#[test]
fn proxies_are_used_except_for_loopback() {
    let proxy = Scripted::start(|_, _| Reply::new(404, ""));
    let address = Some(format!("http://{}", proxy.address));
    let proxies = Proxies { http: address.clone(), https: address, no: Some("direct.test".to_owned()) };
    let plain = HostOptions { plain_http: true, ..HostOptions::default() };
    let hosts = BTreeMap::from([("plain.test".to_owned(), plain)]);
    let client = Client::new(Options { hosts, proxies, retry: Retry { attempts: 0, ..quick().retry }, ..quick() });
    let ask = |name: &str| {
        let repository = client.repository(&Reference::parse(name).expect("valid"));
        run(async { repository.resolve(&tag("a")).await }).expect_err("no registry").to_string()
    };
    assert_eq!(ask("plain.test/x"), "plain.test/x:a: not found");
    assert!(ask("secure.test/x").contains("failed to do request: HEAD \"https://secure.test/v2/x/manifests/a\""));
    assert!(ask("127.0.0.1:1/x").to_lowercase().contains("connection refused"));
    assert_eq!(proxy.lines(), ["HEAD http://plain.test/v2/x/manifests/a", "CONNECT secure.test:443"]);
}

#[test]
fn unusable_certificates_name_their_registry() {
    let broken = HostOptions { identity: Some(b"no PEM".to_vec()), ..HostOptions::default() };
    let hosts = BTreeMap::from([("reg.test".to_owned(), broken)]);
    let repository = open(Options { hosts, ..quick() }, "reg.test/x");
    let error = run(async { repository.resolve(&tag("a")).await }).expect_err("unusable").to_string();
    assert!(error.starts_with("registry reg.test: "), "{error}");
}

#[test]
fn lists_are_read_to_their_last_page() {
    let server = Scripted::start(|seen, _| {
        let url = url::Url::parse(&format!("http://x{}", seen.path)).expect("a path");
        let last = url.query_pairs().find(|(key, _)| key == "last").map(|(_, value)| value.into_owned());
        let path = url.path().to_owned();
        let more = move |last: &str| format!("<{path}?last={last}&n=2>; rel=\"next\"");
        match (url.path(), last.as_deref()) {
            ("/v2/x/tags/list", None) => Reply::new(200, r#"{"tags":["a","b"]}"#).with("link", more("b")),
            ("/v2/x/tags/list", Some("b")) => Reply::new(200, r#"{"tags":["c","d"]}"#).with("link", more("d")),
            ("/v2/x/tags/list", Some(_)) => Reply::new(200, r#"{"tags":["e"]}"#),
            ("/v2/none/tags/list", _) => Reply::new(200, r#"{"name":"none","tags":null}"#),
            // A registry that forgets where it was.
            ("/v2/circle/tags/list", _) => Reply::new(200, r#"{"tags":["a"]}"#).with("link", more("a")),
            ("/v2/_catalog", None) => Reply::new(200, r#"{"repositories":["x"]}"#).with("link", more("x")),
            ("/v2/_catalog", Some(_)) => Reply::new(200, r#"{"repositories":["y/z"]}"#),
            _ => Reply::new(404, ""),
        }
    });
    let tags = |name: &str| run(open(quick(), &format!("{}/{name}", server.address)).tags());
    assert_eq!(tags("x").expect("listed"), ["a", "b", "c", "d", "e"]);
    assert_eq!(server.lines()[0], "GET /v2/x/tags/list?n=1000");
    assert_eq!(tags("none").expect("listed"), [""; 0]);
    assert!(tags("circle").expect_err("no end").to_string().contains("lead in a circle"));
    assert!(tags("nothing").expect_err("not there").is_not_found());
    let catalog = run(Client::new(quick()).catalog(&server.address)).expect("listed");
    assert_eq!(catalog, ["x", "y/z"]);
}
