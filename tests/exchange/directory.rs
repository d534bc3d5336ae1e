//! Caches in directories.

use super::*;

as_root_and_rootless! {
    a_directory_is_a_cache_like_a_registry
    a_directory_holds_what_is_referenced_and_nothing_else
}

fn a_directory_is_a_cache_like_a_registry(who: Who) {
    let registry = Registry::start();
    let first = Rig::new(who);
    let base = shared_base(&first, &registry);
    let build = |rig: &Rig, a: &str, more: &[&str]| {
        let context = context(rig, a, "b\n");
        rig.build(&[&["-t", "app", "--iidfile", "id", "--build-arg", &base], more, &[context.as_str()]].concat())
    };
    let log = build(&first, "a\n", &["--cache-to", "type=local,dest=cache,mode=max"]);
    assert!(log.contains("exporting cache to client directory"), "{log}");

    let second = Rig::empty(who);
    copy_cache(&first, &second);
    let log = build(&second, "a\n", &["--cache-from", "type=local,src=cache"]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert_eq!(stored(&second), BTreeMap::new(), "{log}");
    let id = |rig: &Rig| std::fs::read_to_string(rig.path("id")).expect("iidfile");
    assert_eq!(id(&first), id(&second));
    let log = build(&second, "changed\n", &["--cache-from", "type=local,src=cache"]);
    assert_eq!(ran(&log), ["compile"], "{log}");
    assert_eq!(second.ok(&["run", "app"]).stdout, "changed\n");
}

fn a_directory_holds_what_is_referenced_and_nothing_else(who: Who) {
    let rig = Rig::new(who);
    let dir = rig.arg("cache");
    let blobs = || -> BTreeSet<String> {
        let list = std::fs::read_dir(rig.path("cache/blobs/sha256")).expect("blobs").flatten();
        list.map(|entry| format!("sha256:{}", entry.file_name().to_string_lossy())).collect()
    };
    let referenced = || -> BTreeSet<String> {
        let read = |digest: &str| -> Value {
            let path = rig.path("cache/blobs/sha256").join(digest.trim_start_matches("sha256:"));
            serde_json::from_slice(&std::fs::read(path).expect("there")).expect("json")
        };
        let index: Value =
            serde_json::from_slice(&std::fs::read(rig.path("cache/index.json")).expect("index")).expect("json");
        let mut all = BTreeSet::new();
        for entry in index["manifests"].as_array().expect("manifests") {
            let manifest = entry["digest"].as_str().expect("digest").to_owned();
            let document = read(&manifest);
            all.insert(manifest);
            all.insert(document["config"]["digest"].as_str().expect("digest").to_owned());
            let layers = document["layers"].as_array().expect("layers").iter();
            all.extend(layers.map(|layer| layer["digest"].as_str().expect("digest").to_owned()));
        }
        all
    };
    for text in ["one\n", "two\n", "three\n"] {
        rig.build(&["--cache-to", &format!("type=local,dest={dir}"), &context(&rig, text, text)]);
        assert_eq!(blobs(), referenced());
    }
    let count = blobs().len();
    rig.build(&["--cache-to", &format!("type=local,dest={dir},tag=other"), &context(&rig, "four\n", "b\n")]);
    assert_eq!(blobs(), referenced());
    assert!(blobs().len() > count, "both tags are there");
    std::fs::write(rig.path("cache/.rbuild-left"), "by a killed process").expect("written");
    std::fs::write(rig.path("cache/note"), "of the user").expect("written");
    rig.build(&["--cache-to", &format!("type=local,dest={dir}"), &context(&rig, "four\n", "b\n")]);
    assert!(!rig.path("cache/.rbuild-left").exists() && rig.path("cache/note").exists());
    assert_eq!(blobs(), referenced());
}
