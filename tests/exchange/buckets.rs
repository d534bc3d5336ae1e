//! Caches in buckets of an S3-compatible server.

use super::*;

as_root_and_rootless! {
    a_bucket_is_a_cache_like_a_registry
    big_layers_travel_in_parts
    used_objects_are_kept_young
    a_bucket_that_refuses_is_no_cache
    keys_come_from_a_profile_or_from_the_container
}

fn a_bucket_is_a_cache_like_a_registry(who: Who) {
    let (registry, bucket) = (Registry::start(), Bucket::start());
    let first = Rig::new(who);
    let base = shared_base(&first, &registry);
    let cache = in_bucket(&bucket);
    let build = |rig: &Rig, a: &str, more: &[&str]| {
        let context = context(rig, a, "b\n");
        rig.build(&[&["--build-arg", &base], more, &[context.as_str()]].concat())
    };
    let log = build(&first, "a\n", &["--cache-to", &format!("{cache},name=one;two")]);
    assert!(log.contains("exporting cache to Amazon S3"), "{log}");
    let objects = bucket.objects();
    let names: Vec<_> = objects.iter().filter(|key| !key.starts_with("p/blobs/sha256:")).collect();
    assert_eq!(names, ["p/manifests/one", "p/manifests/two"]);
    bucket.requests();

    let from = format!("{cache},name=none;two");
    let second = Rig::empty(who);
    let log = build(&second, "a\n", &["--cache-from", &from]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    let requests = bucket.requests();
    assert_eq!(requests.len(), 3, "two names and the config: {requests:#?}");
    assert_eq!(stored(&second), BTreeMap::new(), "{log}");
    // One changed file: what is below its RUN is fetched, the WORKDIR and the tools, and their indexes.
    let third = Rig::empty(who);
    let log = build(&third, "changed\n", &["--cache-from", &from]);
    assert_eq!(ran(&log), ["compile"], "{log}");
    let moved = bucket.requests().iter().filter(|request| request.starts_with("GET /cache/p/blobs/")).count();
    assert!(moved <= 1 + 2 + 5, "the config, two layers and small indexes, but {moved}\n{log}");
    // Exporting what is there sends the new layer only.
    let log = build(&third, "changed\n", &["--cache-from", &from, "--cache-to", &format!("{cache},name=two")]);
    assert!(!log.contains("not exported"), "{log}");
    assert!(bucket.objects().is_superset(&objects), "nothing goes away");
    // An image that stays does not depend on the bucket.
    let log = build(&second, "changed\n", &["-t", "app", "--cache-from", &from]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert_eq!(second.ok(&["run", "app"]).stdout, "changed\n");
}

fn big_layers_travel_in_parts(who: Who) {
    let bucket = Bucket::start();
    let cache = in_bucket(&bucket);
    let dockerfile = "FROM busybox\nRUN echo ran big && dd if=/dev/urandom of=/big bs=1M count=40 2>/dev/null\n\
        RUN echo ran sum && sha256sum /big > /sum\nCOPY v /\n\
        RUN echo ran check && sha256sum -c /sum\n";
    let context = |rig: &Rig, v: &str| rig.context("big", &[("Dockerfile", dockerfile), ("v", v)]);
    let first = Rig::new(who);
    let log = first.build(&["--cache-to", &cache, &context(&first, "1")]);
    let requests = bucket.requests();
    let of = |requests: &[String], what: &str| requests.iter().filter(|request| request.contains(what)).count();
    assert_eq!(of(&requests, "?uploads="), 1, "{log}{requests:#?}");
    assert_eq!(of(&requests, "?partNumber="), 3, "{requests:#?}");
    let second = Rig::new(who);
    let log = second.build(&["--cache-from", &cache, &context(&second, "2")]);
    assert_eq!(ran(&log), ["check"], "{log}");

    // A copy that was damaged is not believed.
    for key in bucket.objects().into_iter().filter(|key| key.starts_with("p/blobs/")) {
        let path = bucket.object(&key);
        let mut bytes = std::fs::read(&path).expect("there");
        if bytes.len() > 1 << 20 {
            bytes[1 << 20] ^= 1;
            std::fs::write(&path, bytes).expect("written");
        }
    }
    let fourth = Rig::new(who);
    let log = fourth.build(&["--cache-from", &cache, &context(&fourth, "4")]);
    assert_eq!(ran(&log), ["big", "sum", "check"], "{log}");
}

fn used_objects_are_kept_young(who: Who) {
    let bucket = Bucket::start();
    let (rig, cache) = (Rig::new(who), in_bucket(&bucket));
    let context = context(&rig, "a\n", "b\n");
    rig.build(&["--cache-to", &cache, &context]);
    let written = |log: &str| {
        let requests = bucket.requests();
        assert!(!log.contains("not exported"), "{log}");
        requests.iter().filter(|request| request.starts_with("PUT /cache/p/blobs/")).count()
    };
    written("");
    let again = |more: &str| rig.build(&["--cache-to", &format!("{cache}{more}"), &context]);
    assert_eq!(written(&again("")), 1, "only the manifest");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    // The copies are all there is to see: this server empties an object that is copied onto itself.
    assert!(written(&again(",touch_refresh=1s")) > 7);
}

fn a_bucket_that_refuses_is_no_cache(who: Who) {
    let bucket = Bucket::start();
    let (rig, cache) = (Rig::new(who), in_bucket(&bucket));
    let context = context(&rig, "a\n", "b\n");
    for (wrong, words) in [("access_key_id=XX", "403 Forbidden"), ("secret_access_key=XX", "SignatureDoesNotMatch")] {
        let key = wrong.split('=').next().expect("has a name");
        let right = if key == "access_key_id" { "access_key_id=AK" } else { "secret_access_key=SK" };
        let cache = cache.replace(right, wrong);
        let log = rig.build(&["--cache-from", &cache, "--cache-to", &cache, &context]);
        assert!(log.contains(words) && log.contains("the cache was not exported"), "{log}");
        assert!(!log.contains("SK") && !log.contains("X-Amz-Signature"), "{log}");
    }
    assert!(bucket.objects().is_empty());
    let strict = format!("{},ignore-error=false", cache.replace("=SK", "=XX"));
    let error = rig.fails(&["build", "--cache-to", &strict, &context]);
    assert!(error.contains("SignatureDoesNotMatch"), "{error}");
}

fn keys_come_from_a_profile_or_from_the_container(who: Who) {
    let bucket = Bucket::start();
    let rig = Rig::new(who);
    let context = context(&rig, "a\n", "b\n");
    let address = &bucket.address;
    let files = [
        ("config", format!("[profile ci]\nregion = here\nendpoint_url = http://{address}\n")),
        ("credentials", "[ci]\naws_access_key_id = AK\naws_secret_access_key = SK\n".to_owned()),
    ];
    for (name, text) in &files {
        std::fs::write(rig.path(name), text).expect("written");
    }
    let build = |cache: &str, env: &[(&str, &str)]| {
        let args = ["build", "--progress=plain", "--cache-to", cache, &context];
        let out = rig::finish(rig::start(rig.command(&args).envs(env.iter().copied())), &args);
        assert!(out.status.success(), "{}", out.stderr);
        assert!(!out.stderr.contains("not exported"), "{}", out.stderr);
    };
    let (config, credentials) = (rig.arg("config"), rig.arg("credentials"));
    let profile = [("AWS_PROFILE", "ci"), ("AWS_CONFIG_FILE", &config), ("AWS_SHARED_CREDENTIALS_FILE", &credentials)];
    build("type=s3,bucket=cache,use_path_style=true,prefix=profile/", &profile);
    assert!(bucket.objects().contains("profile/manifests/rbuild"), "{:?}", bucket.objects());

    let (endpoint, asked) = key_endpoint();
    let cache =
        format!("type=s3,bucket=cache,region=here,endpoint_url=http://{address},use_path_style=true,prefix=container/");
    let token =
        [("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.as_str()), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "let me")];
    build(&cache, &token);
    assert!(bucket.objects().contains("container/manifests/rbuild"), "{:?}", bucket.objects());
    let asked = asked.lock().expect("lock");
    assert!(matches!(asked.as_slice(), [once] if once.contains("authorization: let me")), "{asked:?}");
}

/// Hands out the bucket's keys as a container's endpoint does; its address, and the heads of the requests.
fn key_endpoint() -> (String, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("free port");
    let address = format!("http://{}/keys", listener.local_addr().expect("bound"));
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            heard.lock().expect("lock").push(lines.collect::<Vec<_>>().join("\n"));
            let body = r#"{"AccessKeyId":"AK","SecretAccessKey":"SK","Expiration":"2100-01-01T00:00:00Z"}"#;
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = (&stream).write_all(format!("{head}{body}").as_bytes());
        }
    });
    (address, asked)
}
