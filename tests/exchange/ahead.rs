//! Layers that an output will want are compressed while later steps run: seen in the store while a step waits to be let on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::as_root_and_rootless;
use crate::rig::{Rig, Who, finish, start};

as_root_and_rootless! {
    layers_are_compressed_while_steps_run
    nothing_is_compressed_for_the_store
}

/// The second RUN waits for a file in its cache mount.
const DOCKERFILE: &str = "FROM busybox\nRUN seq 30000 >/numbers\n\
    RUN --mount=type=cache,id=gate,target=/gate touch /gate/here && while ! test -e /gate/go; do sleep 0.05; done\n";

/// How long the build may take to come to where it is wanted.
const PATIENCE: Duration = Duration::from_secs(120);

/// The files of a store below `kind` whose names begin so.
fn in_store(rig: &Rig, kind: &str, begin: &str) -> Vec<PathBuf> {
    let fans = std::fs::read_dir(rig.store().join(kind)).into_iter().flatten().flatten();
    let files = fans.flat_map(|fan| std::fs::read_dir(fan.path()).into_iter().flatten().flatten());
    files
        .map(|file| file.path())
        .filter(|path| path.file_name().expect("a name").to_string_lossy().starts_with(begin))
        .collect()
}

/// Waits for something; the build must not end before.
fn wait_for<T>(what: &str, found: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "no {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The directory of the cache mount, once the step that waits is running.
fn gate(rig: &Rig) -> PathBuf {
    wait_for("waiting step", || {
        let mounts = in_store(rig, "cache-mounts-v1", "").into_iter().map(|mount| mount.join("data"));
        mounts.into_iter().find(|data| data.join("here").exists())
    })
}

fn layers_are_compressed_while_steps_run(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(DOCKERFILE);
    let output = format!("type=oci,dest={}", rig.arg("ahead.tar"));
    let args = ["build", "--progress=plain", "-o", &output, &context];
    let child = start(&mut rig.command(&args));
    let gate = gate(&rig);
    let made = wait_for("compressed layer", || in_store(&rig, "derived-v1", "layer-").pop());
    assert!(made.to_string_lossy().contains("-gzip-3-v1"), "{}", made.display());
    std::fs::write(gate.join("go"), "").expect("written");
    let out = finish(child, &args);
    assert!(out.status.success(), "{}", out.stderr);

    // The same image when nothing could be done ahead: every step is a hit, and the blobs are gone.
    for derived in in_store(&rig, "derived-v1", "") {
        std::fs::remove_file(derived).expect("removed");
    }
    rig.build(&["-o", &format!("type=oci,dest={}", rig.arg("again.tar")), &context]);
    let bytes = |name: &str| std::fs::read(rig.path(name)).expect("there");
    assert!(bytes("ahead.tar") == bytes("again.tar"), "the same bytes");
}

fn nothing_is_compressed_for_the_store(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(DOCKERFILE);
    let args = ["build", "--progress=plain", "-t", "kept:1", &context];
    let child = start(&mut rig.command(&args));
    std::fs::write(gate(&rig).join("go"), "").expect("written");
    let out = finish(child, &args);
    assert!(out.status.success(), "{}", out.stderr);
    assert!(in_store(&rig, "derived-v1", "layer-").is_empty());
}
