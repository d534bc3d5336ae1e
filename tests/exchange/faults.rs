//! Caches that are damaged, gone or out of reach cost hits and nothing else.

use super::*;

as_root_and_rootless! {
    damaged_caches_cost_hits_and_nothing_else
    lost_layers_of_a_registry_are_built_again
    what_cannot_be_read_or_written_is_a_warning
}

/// Does something to every layer blob of a cache directory.
fn damage(dir: &Path, how: impl Fn(&Path, Vec<u8>)) {
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).expect("there")).expect("json") };
    let index = read(dir.join("index.json"));
    let blob = |digest: &str| dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let manifest = read(blob(index["manifests"][0]["digest"].as_str().expect("digest")));
    for layer in manifest["layers"].as_array().expect("layers") {
        let path = blob(layer["digest"].as_str().expect("digest"));
        how(&path, std::fs::read(&path).expect("there"));
    }
}

fn damaged_caches_cost_hits_and_nothing_else(who: Who) {
    let first = Rig::new(who);
    let dir = first.arg("cache");
    first.build(&["--cache-to", &format!("type=local,dest={dir}"), &context(&first, "a\n", "b\n")]);
    type Harm = fn(&Path, Vec<u8>);
    let harms: [(&str, Harm); 3] = [
        ("corrupted", |path, mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
            std::fs::write(path, bytes).expect("written");
        }),
        ("truncated", |path, bytes| std::fs::write(path, &bytes[..bytes.len() / 2]).expect("written")),
        ("missing", |path, _| std::fs::remove_file(path).expect("removed")),
    ];
    for (name, harm) in harms {
        let second = Rig::new(who);
        copy_cache(&first, &second);
        damage(&second.path("cache"), harm);
        let from = "type=local,src=cache";
        let log = second.build(&["-o", "out", "--cache-from", from, &context(&second, "changed\n", "b\n")]);
        assert_eq!(files(&second, "out"), "changed\nbase\nb\n", "{name}\n{log}");
        assert!(log.contains("cannot be had from the cache"), "{name}\n{log}");
        assert!(ran(&log).contains(&"tools") && ran(&log).contains(&"base"), "{name}\n{log}");
    }
}

fn lost_layers_of_a_registry_are_built_again(who: Who) {
    let registry = Registry::start();
    let cache = registry.name("cache:main");
    let first = Rig::new(who);
    first.build(&["--cache-to", &format!("type=registry,ref={cache}"), &context(&first, "a\n", "b\n")]);
    for digest in layer_digests(&registry.manifest("cache", "main")) {
        std::fs::remove_file(registry.blob(&digest)).expect("removed");
    }
    // Everything hits, and then the push finds that nobody has the layers.
    let second = Rig::new(who);
    let name = registry.name("app:1");
    let log = second.build(&["-t", &name, "--push", "--cache-from", &cache, &context(&second, "a\n", "b\n")]);
    assert!(ran(&log).contains(&"base"), "{log}");
    let third = Rig::empty(who);
    assert_eq!(third.ok(&["run", &name]).stdout, "a\n");
}

fn what_cannot_be_read_or_written_is_a_warning(who: Who) {
    let registry = Registry::start();
    let rig = Rig::new(who);
    let context = context(&rig, "a\n", "b\n");
    let missing = registry.name("cache:none");
    let log = rig.build(&["--cache-from", &missing, "--cache-from", "type=local,src=/nowhere", &context]);
    assert!(log.contains(&format!("importing cache manifest from {missing}")) && log.contains("not found"), "{log}");
    // Port 9 of loopback: nobody listens.
    let to = ["--cache-to", "type=registry,ref=127.0.0.1:9/cache"];
    let log = rig.build(&[to.as_slice(), &[context.as_str()]].concat());
    assert!(log.contains("the cache was not exported"), "{log}");
    let error = rig.fails(&["build", "--cache-to", "type=registry,ref=127.0.0.1:9/cache,ignore-error=false", &context]);
    assert!(error.contains("127.0.0.1:9"), "{error}");
    let error = rig.rbuild(&["build", "--cache-to", "type=gha", &context]).stderr;
    assert!(error.contains("cache type gha is not supported"), "{error}");
    let error = rig.rbuild(&["build", "--cache-from", "type=registry,ref=a,colour=red", &context]).stderr;
    assert!(error.contains("unknown attribute \"colour\""), "{error}");
}
