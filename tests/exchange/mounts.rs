//! Contents of cache mounts on their way between machines.

use super::*;

as_root_and_rootless! {
    cache_mounts_travel_when_asked
    of_a_changed_mount_only_the_change_is_sent
}

fn cache_mounts_travel_when_asked(who: Who) {
    let mut registry = Registry::start();
    let (cache, copy) = (registry.name("cache:main"), registry.name("cache:copy"));
    let first = Rig::new(who);
    let context = |rig: &Rig, text: &str| {
        let dockerfile = "FROM busybox\nCOPY v /\n\
            RUN --mount=type=cache,id=deps,target=/c,uid=7 echo ran with $(ls /c) && touch /c/package && chown 9 /c/package\n\
            RUN --mount=type=cache,id=private,target=/p echo ran private $(ls /p) && touch /p/mine\n";
        rig.context("mounts", &[("Dockerfile", dockerfile), ("v", text)])
    };
    let to = format!("type=registry,ref={cache},mounts=deps");
    let log = first.build(&["--cache-to", &to, &context(&first, "1")]);
    assert_eq!(ran(&log), ["with", "private"], "{log}");

    let second = Rig::new(who);
    let log = second.build(&["--cache-from", &cache, &context(&second, "2")]);
    assert_eq!(ran(&log), ["with package", "private"], "{log}");
    let third = Rig::new(who);
    let from = format!("type=registry,ref={cache},mounts=none");
    let log = third.build(&["--cache-from", &from, &context(&third, "2")]);
    assert_eq!(ran(&log), ["with", "private"], "{log}");

    // A machine that used nothing hands on what there is, without moving it.
    let fourth = Rig::new(who);
    registry.requests();
    let to = format!("type=registry,ref={copy},mounts=all");
    let log = fourth.build(&["--cache-from", &cache, "--cache-to", &to, &context(&fourth, "1")]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    let requests = registry.requests();
    assert_eq!((fetched(&requests).len(), uploaded(&requests)), (1, 0), "{log}{requests:#?}");
    assert_eq!(registry.manifest("cache", "main"), registry.manifest("cache", "copy"));
}

/// The sizes of the blobs that were sent, in order of their digests.
fn moved(registry: &mut Registry) -> Vec<u64> {
    let requests = registry.requests();
    let done = requests.iter().filter(|r| r.method == "PUT" && r.path.contains("/blobs/uploads/") && r.status == 201);
    let digest = |r: &Request| {
        r.path.split("digest=").nth(1).map(|rest| rest.split('&').next().unwrap_or(rest).replace("%3A", ":"))
    };
    let digests: BTreeSet<String> = done.filter_map(digest).collect();
    digests.iter().map(|digest| std::fs::metadata(registry.blob(digest)).expect("there").len()).collect()
}

fn of_a_changed_mount_only_the_change_is_sent(who: Who) {
    const MIB: u64 = 1 << 20;
    let mut registry = Registry::start();
    let cache = registry.name("cache:main");
    let first = Rig::new(who);
    // Twenty-four files of random bytes when the mount is new, and a small one that is always another.
    let context = |rig: &Rig, text: &str| {
        let dockerfile = "FROM busybox\nCOPY v /\nRUN --mount=type=cache,id=deps,target=/c \
            echo ran with $(cat /c/12/small) $(ls /c | wc -l); test -e /c/1 || for n in $(seq 24); do mkdir /c/$n; \
            dd if=/dev/urandom of=/c/$n/big bs=512k count=2 2>/dev/null; done; cp /v /c/12/small; md5sum /c/*/big >/sums\n";
        rig.context("mounts", &[("Dockerfile", dockerfile), ("v", text)])
    };
    let to = format!("type=registry,ref={cache},mounts=all");
    registry.requests();
    first.build(&["--cache-to", &to, &context(&first, "1")]);
    let whole = moved(&mut registry);
    assert!(whole.iter().sum::<u64>() > 24 * MIB && (8..100).contains(&whole.len()), "{whole:?}");
    let log = first.build(&["--cache-to", &to, &context(&first, "2")]);
    assert_eq!(ran(&log), ["with 1 24"], "{log}");
    let change = moved(&mut registry);
    assert!(change.iter().sum::<u64>() < 10 * MIB && change.len() < 8, "{change:?} of {whole:?}");

    // It arrives whole, and what is sent back from there is the change only.
    let second = Rig::new(who);
    let log = second.build(&["--cache-from", &cache, "--cache-to", &to, &context(&second, "3")]);
    assert_eq!(ran(&log), ["with 2 24"], "{log}");
    let change = moved(&mut registry);
    assert!(change.iter().sum::<u64>() < 10 * MIB && change.len() < 8, "{change:?} of {whole:?}");

    // Every blob is listed, so that the registry keeps it; the manifest of a directory is swept by the same list.
    let config = config_of(&registry, "cache", "main");
    let config: Value = serde_json::from_slice(&std::fs::read(registry.blob(&config)).expect("there")).expect("json");
    let mounts = config["mounts"].as_object().expect("mounts");
    let parts: BTreeSet<&str> = mounts
        .values()
        .flat_map(|mount| mount["parts"].as_array().expect("parts"))
        .map(|part| part["digest"].as_str().expect("digest"))
        .collect();
    let manifest = registry.manifest("cache", "main");
    let listed: BTreeSet<&str> = manifest["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .map(|blob| blob["digest"].as_str().expect("digest"))
        .collect();
    assert!(parts.len() > 8 && parts.is_subset(&listed), "{config}");
}
