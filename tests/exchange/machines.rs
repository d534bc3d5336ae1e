//! What one machine did is not done again by another: nothing runs that need not, and no more is moved than that.

use super::*;

as_root_and_rootless! {
    a_second_machine_runs_nothing_and_moves_nothing
    one_changed_file_moves_only_what_must_run_reads
    min_holds_the_result_only
    archives_and_files_come_out_right_from_a_cache
    the_image_is_its_own_cache
    two_sources_complete_one_another
    several_caches_are_written_at_once
}

fn a_second_machine_runs_nothing_and_moves_nothing(who: Who) {
    let mut registry = Registry::start();
    let (cache, one, two) = (registry.name("cache:main"), registry.name("app:1"), registry.name("app:2"));
    let first = Rig::new(who);
    let base = shared_base(&first, &registry);
    let build = |rig: &Rig, more: &[&str]| {
        let context = context(rig, "a\n", "b\n");
        rig.build(&[&["--build-arg", &base], more, &[context.as_str()]].concat())
    };
    let to = format!("type=registry,ref={cache},mode=max");
    let log = build(&first, &["-t", &one, "--push", "--cache-to", &to]);
    assert_eq!(ran(&log).len(), 3, "{log}");
    for line in ["exporting cache to registry", "preparing build cache for export", "writing cache image manifest"] {
        assert!(log.contains(line), "{line}\n{log}");
    }
    registry.requests();

    let second = Rig::empty(who);
    let log = build(&second, &["-t", &two, "--push", "--cache-from", &cache]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert!(log.contains(&format!("importing cache manifest from {cache}")), "{log}");
    assert!(log.contains("inferred cache manifest type: application/vnd.oci.image.manifest.v1+json"), "{log}");
    let requests = registry.requests();
    let configs = BTreeSet::from([config_of(&registry, "cache", "main"), config_of(&registry, "busybox", "latest")]);
    assert_eq!(fetched(&requests), configs, "{requests:#?}");
    assert_eq!(uploaded(&requests), 0, "{requests:#?}");
    assert_eq!(stored(&second), BTreeMap::new(), "nothing was put into the store");
    assert_eq!(registry.manifest("app", "1"), registry.manifest("app", "2"));
    // Exporting what was imported moves nothing either.
    let to = format!("type=registry,ref={}", registry.name("cache:copy"));
    build(&second, &["-t", &two, "--cache-from", &cache, "--cache-to", &to]);
    let requests = registry.requests();
    assert_eq!((fetched(&requests).len(), uploaded(&requests)), (1, 0), "{requests:#?}");
    assert_eq!(registry.manifest("cache", "copy"), registry.manifest("cache", "main"));
}

fn one_changed_file_moves_only_what_must_run_reads(who: Who) {
    let mut registry = Registry::start();
    let cache = registry.name("cache:main");
    let to = format!("type=registry,ref={cache},mode=max");
    let first = Rig::new(who);
    first.build(&["--cache-to", &to, &context(&first, "a\n", "b\n")]);
    registry.requests();
    let layers = layer_digests(&registry.manifest("cache", "main"));
    let moved = |requests: &[Request]| fetched(requests).iter().filter(|d| layers.contains(d)).count();

    // b.txt is the last layer: its destination is looked at by indexes, no layer is needed.
    let second = Rig::new(who);
    let log = second.build(&["-t", "app", "--cache-from", &cache, &context(&second, "a\n", "changed\n")]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert_eq!(moved(&registry.requests()), 0, "{log}");
    // Only now somebody wants files.
    assert_eq!(second.ok(&["run", "app"]).stdout, "a\n");

    // a.txt is compiled: that RUN needs what is below it, and the other stage stays where it is.
    let third = Rig::new(who);
    registry.requests();
    let log = third.build(&["-t", "app", "--cache-from", &cache, &context(&third, "changed\n", "b\n")]);
    assert_eq!(ran(&log), ["compile"], "{log}");
    let requests = registry.requests();
    assert_eq!(moved(&requests), 2, "WORKDIR and tools\n{log}{requests:#?}");
    assert_eq!(third.ok(&["run", "app"]).stdout, "changed\n");
}

fn min_holds_the_result_only(who: Who) {
    let registry = Registry::start();
    let cache = registry.name("cache:min");
    let first = Rig::new(who);
    let to = format!("type=registry,ref={cache},mode=min,compression=zstd,compression-level=5");
    first.build(&["--cache-to", &to, &context(&first, "a\n", "b\n")]);
    let manifest = registry.manifest("cache", "min");
    assert_eq!(layer_digests(&manifest).len(), 4, "{manifest}");
    assert!(manifest["layers"].to_string().contains("+zstd"));
    let second = Rig::new(who);
    let log = second.build(&["-t", "app", "--cache-from", &cache, &context(&second, "a\n", "b\n")]);
    assert_eq!(ran(&log), ["tools", "compile"], "the builder is not in it\n{log}");
    assert_eq!(second.ok(&["run", "app"]).stdout, "a\n");
}

fn archives_and_files_come_out_right_from_a_cache(who: Who) {
    let registry = Registry::start();
    let cache = registry.name("cache:main");
    let first = Rig::new(who);
    let base = shared_base(&first, &registry);
    let build = |rig: &Rig, more: &[&str]| {
        let context = context(rig, "a\n", "b\n");
        let args = ["--build-arg", &base, "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
        rig.build(&[args.as_slice(), more, &[context.as_str()]].concat())
    };
    let to = format!("type=registry,ref={cache}");
    let (oci, clamped) = ("type=oci,dest=image.tar", "type=oci,dest=clamped.tar,rewrite-timestamp=true");
    build(&first, &["-o", oci, "-o", clamped, "--cache-to", &to]);
    let second = Rig::empty(who);
    let log = build(&second, &["-o", oci, "--cache-from", &cache]);
    let log = log + &build(&second, &["-o", clamped, "-o", "out", "--cache-from", &cache]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert_eq!(files(&second, "out"), "a\nbase\nb\n");
    for name in ["image.tar", "clamped.tar"] {
        let read = |rig: &Rig| std::fs::read(rig.path(name)).expect("written");
        assert!(read(&first) == read(&second), "{name} differs\n{log}");
    }
}

fn the_image_is_its_own_cache(who: Who) {
    let mut registry = Registry::start();
    let name = registry.name("app:1");
    let first = Rig::new(who);
    let args = ["-t", &name, "--push", "--build-arg", "BUILDKIT_INLINE_CACHE=1"];
    first.build(&[args.as_slice(), &[context(&first, "a\n", "b\n").as_str()]].concat());
    registry.requests();
    let second = Rig::new(who);
    let log = second.build(&["-t", "app", "--cache-from", &name, &context(&second, "a\n", "b\n")]);
    assert_eq!(ran(&log), ["tools", "compile"], "the builder is not in it\n{log}");
    // The tools are others now, so COPY looks at what it copies onto; an image carries no indexes, so that is two layers.
    assert_eq!(fetched(&registry.requests()).len(), 3, "{log}");
    let log = second.build(&["-t", "app", "--cache-from", &name, &context(&second, "a\n", "changed\n")]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert_eq!(second.ok(&["run", "app", "cat", "/app/b.txt"]).stdout, "changed\n");
    // Neither the next image nor a plain one as a source carries anything on.
    let plain = registry.name("plain:1");
    second.build(&["-t", &plain, "--push", &context(&second, "a\n", "b\n")]);
    let third = Rig::new(who);
    let log = third.build(&["--cache-from", &plain, &context(&third, "a\n", "b\n")]);
    assert_eq!(ran(&log).len(), 3, "{log}");
}

fn two_sources_complete_one_another(who: Who) {
    let registry = Registry::start();
    let (one, two) = (registry.name("cache:one"), registry.name("cache:two"));
    let first = Rig::new(who);
    let dockerfile = |name: &str| format!("FROM busybox\nRUN echo ran {name} && echo {name} > /{name}\n");
    for (name, cache) in [("left", &one), ("right", &two)] {
        let context = first.context(name, &[("Dockerfile", &dockerfile(name))]);
        first.build(&["--cache-to", &format!("type=registry,ref={cache}"), &context]);
    }
    let both = "FROM busybox AS left\nRUN echo ran left && echo left > /left\nFROM busybox\nRUN echo ran right && echo right > /right\nCOPY --from=left /left /\n";
    let second = Rig::new(who);
    let context = second.context("both", &[("Dockerfile", both)]);
    let log = second.build(&["-o", "out", "--cache-from", &one, "--cache-from", &two, &context]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    let read = |name: &str| std::fs::read_to_string(second.path("out").join(name)).expect("there");
    assert_eq!((read("left").as_str(), read("right").as_str()), ("left\n", "right\n"));
}

#[test]
fn root_and_rootless_share_a_cache() {
    if !rig::can_run(Who::Root) {
        return;
    }
    let registry = Registry::start();
    let first = Rig::new(Who::Root);
    let base = shared_base(&first, &registry);
    let mut from: Option<(Rig, String)> = None;
    for (n, who) in [Who::Root, Who::Multi, Who::Root, Who::Single].into_iter().enumerate() {
        let rig = Rig::empty(who);
        let (cache, context) = (registry.name(&format!("cache:{n}")), context(&rig, "a\n", &format!("{n}\n")));
        let to = format!("type=registry,ref={cache}");
        let mut args = vec!["-t", "app", "--build-arg", &base, "--cache-to", &to];
        if let Some((_, from)) = &from {
            args.extend(["--cache-from", from]);
        }
        args.push(&context);
        let log = rig.build(&args);
        assert_eq!(ran(&log).len(), if n == 0 { 3 } else { 0 }, "{who:?}\n{log}");
        assert_eq!(
            rig.ok(&["run", "app", "cat", "/app/out", "/app/base.txt", "/app/b.txt"]).stdout,
            format!("a\nbase\n{n}\n")
        );
        from = Some((rig, cache));
    }
}

fn several_caches_are_written_at_once(who: Who) {
    let (mut registry, bucket) = (Registry::start(), Bucket::start());
    let first = Rig::new(who);
    let (max, min) = (registry.name("cache:max"), registry.name("cache:min"));
    let to = [
        format!("type=registry,ref={max}"),
        format!("type=registry,ref={min},mode=min"),
        "type=local,dest=cache".to_owned(),
        in_bucket(&bucket),
        "type=inline".to_owned(),
    ];
    let image = registry.name("app:1");
    let mut args = vec!["-t", &image, "--push"];
    args.extend(to.iter().flat_map(|to| ["--cache-to", to.as_str()]));
    let context_of = |rig: &Rig| context(rig, "a\n", "b\n");
    let path = context_of(&first);
    args.push(&path);
    first.build(&args);
    registry.requests();
    let everything: [&str; 0] = [];
    let builder = ["tools", "compile"];
    let sources = [
        (max, everything.as_slice()),
        (min, &builder),
        ("type=local,src=cache".to_owned(), &everything),
        (in_bucket(&bucket), &everything),
        (image, &builder),
    ];
    for (from, expected) in sources {
        let rig = Rig::new(who);
        copy_cache(&first, &rig);
        let log = rig.build(&["--cache-from", &from, &context_of(&rig)]);
        assert_eq!(ran(&log), expected, "{from}\n{log}");
        // Another target of the same file.
        let log = rig.build(&["--target", "build", "--cache-from", &from, &context_of(&rig)]);
        assert_eq!(ran(&log), everything, "{from}\n{log}");
    }
}
