//! From names to image records: policies, platforms, what is remembered.

use std::collections::BTreeMap;

use rbuild::cancel::Cancel;
use rbuild::catalog::pull::{Policy, Puller, Resolved, Source};
use rbuild::catalog::{Named, Origin};
use rbuild::event::Progress;
use rbuild::layers::{Layers, TreeOptions};
use rbuild::oci::manifest::{Document, Family, Index};
use rbuild::oci::platform::Platform;
use rbuild::oci::reference::Reference;
use rbuild::registry::{Client, Destination, Layout};
use rbuild_cache::{Store, StoreOptions};

use crate::server::{Access, Registry, Reply, Scripted};
use crate::{noise, open, push, quick, run, sample, sample_for};

struct World {
    _directory: tempfile::TempDir,
    puller: Puller,
}

fn world() -> World {
    let directory = tempfile::tempdir().expect("temp dir");
    let store = Store::open(&directory.path().join("store"), StoreOptions::default()).expect("opened");
    let layers = Layers::new(store, TreeOptions::ROOT, Cancel::new());
    World { puller: Puller::new(layers, Client::new(quick())), _directory: directory }
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn resolve(world: &World, name: &str, platform: &Platform, policy: Policy) -> Result<Resolved, String> {
    let source = Source::parse(name).map_err(|error| error.to_string())?;
    run(world.puller.resolve(&source, platform, policy, None)).map_err(|error| error.to_string())
}

/// Pushes an index of two platforms; returns its digest and the digests of the configs.
async fn push_index(destination: &dyn Destination, tag: &str, seed: usize) -> Document {
    let mut entries = Vec::new();
    for (n, arch) in ["amd64", "arm64"].iter().enumerate() {
        let image = sample(Family::Oci, noise(seed + n));
        push(destination, &image, &format!("{tag}-{arch}")).await.expect("pushed");
        let mut entry = image.manifest.descriptor();
        entry.platform = Some(Platform::new("linux", arch, ""));
        entries.push(entry);
    }
    let index = Document::of_index(&Index::new(Family::Oci, entries, BTreeMap::new()));
    destination.push_manifest(&index, Some(tag)).await.expect("pushed");
    index
}

#[test]
fn policies_decide_who_is_asked() {
    let registry = Registry::start(&Access::Open);
    let name = format!("{}/app", registry.address);
    let repository = open(quick(), &name);
    let first = sample(Family::Oci, noise(100));
    run(push(&repository, &first, "latest")).expect("pushed");
    let world = world();
    let ask = |policy| resolve(&world, &name, &amd64(), policy);

    let error = ask(Policy::Never).expect_err("nothing there yet");
    assert_eq!(error, format!("{name}:latest: not found in the store, and pulling is not allowed (--pull=never)"));
    let pulled = ask(Policy::Missing).expect("pulled");
    assert_eq!(pulled.digest, Some(first.manifest.digest()));
    assert_eq!(pulled.image.manifest.as_ref(), Some(&first.manifest), "byte for byte");
    assert_eq!(pulled.image.config.as_bytes(), first.config.1);
    assert_eq!(pulled.image.layers[0].from, [Origin::Registry(Reference::parse(&name).expect("valid"))]);

    let second = sample(Family::Oci, noise(200));
    run(push(&repository, &second, "latest")).expect("pushed");
    for policy in [Policy::Missing, Policy::Never] {
        assert_eq!(ask(policy).expect("in the store").digest, Some(first.manifest.digest()), "{policy:?}");
    }
    for policy in [Policy::Newer, Policy::Always] {
        assert_eq!(ask(policy).expect("asked").digest, Some(second.manifest.digest()), "{policy:?}");
    }

    drop(registry);
    assert_eq!(ask(Policy::Newer).expect("from the store").digest, Some(second.manifest.digest()));
    assert!(ask(Policy::Always).expect_err("nobody answers").contains("failed to do request"));
    let pinned = format!("{name}@{}", second.manifest.digest());
    let found = resolve(&world, &pinned, &amd64(), Policy::Always).expect("a digest never changes its mind");
    assert_eq!(found.digest, Some(second.manifest.digest()));
}

#[test]
fn an_index_gives_each_platform_its_image() {
    let registry = Registry::start(&Access::Open);
    let name = format!("{}/multi", registry.address);
    let index = run(push_index(&open(quick(), &name), "latest", 50));
    let world = world();
    let ask = |arch: &str| resolve(&world, &name, &Platform::new("linux", arch, ""), Policy::Missing);
    let (amd, arm) = (ask("amd64").expect("there"), ask("arm64").expect("there"));
    assert_ne!(amd.id, arm.id);
    assert_eq!((amd.digest, arm.digest), (Some(index.digest()), Some(index.digest())));
    assert_eq!(ask("aarch64").expect("an alias").id, arm.id);
    let error = ask("s390x").expect_err("not built for it");
    assert_eq!(error, format!("{name}:latest: no match for platform in manifest: not found"));
    let remembered = world.puller.catalog().remembered(&Reference::parse(&name).expect("valid")).expect("read");
    assert_eq!(remembered.map(|named| named.images.len()), Some(2));
}

#[test]
fn an_entry_that_does_not_say_its_platform_is_judged_by_its_config() {
    let registry = Registry::start(&Access::Open);
    let name = format!("{}/silent", registry.address);
    let arm = sample_for(Family::Oci, "arm64", noise(61));
    let amd = sample_for(Family::Oci, "amd64", noise(62));
    let inner = Document::of_index(&Index::new(Family::Oci, vec![arm.manifest.descriptor()], BTreeMap::new()));
    let entries = vec![inner.descriptor(), amd.manifest.descriptor()];
    let index = Document::of_index(&Index::new(Family::Oci, entries, BTreeMap::new()));
    run(async {
        let repository = open(quick(), &name);
        push(&repository, &arm, "a").await?;
        push(&repository, &amd, "b").await?;
        repository.push_manifest(&inner, Some("c")).await?;
        repository.push_manifest(&index, Some("latest")).await
    })
    .expect("pushed");
    let world = world();
    let ask = |arch: &str| resolve(&world, &name, &Platform::new("linux", arch, ""), Policy::Missing);
    assert_eq!(ask("amd64").expect("the second").image.manifest, Some(amd.manifest));
    assert_eq!(ask("arm64").expect("in an index").image.manifest, Some(arm.manifest));
    let error = ask("s390x").expect_err("not built for it");
    assert_eq!(error, format!("{name}:latest: no match for platform in manifest: not found"));
}

#[test]
fn an_unchanged_image_costs_one_head_request() {
    let image = sample(Family::Oci, noise(10));
    let (manifest, config, digest) = (image.manifest.clone(), image.config.clone(), image.manifest.digest());
    let server = Scripted::start(move |seen, _| {
        if seen.path.contains("/blobs/") {
            return Reply::new(200, config.1.clone());
        }
        Reply::new(200, manifest.bytes())
            .with("content-type", manifest.media_type().to_string())
            .with("docker-content-digest", digest.to_string())
    });
    let name = format!("{}/app", server.address);
    let world = world();
    resolve(&world, &name, &amd64(), Policy::Always).expect("pulled");
    let before = server.lines().len();
    resolve(&world, &name, &amd64(), Policy::Always).expect("asked");
    assert_eq!(server.lines()[before..], ["HEAD /v2/app/manifests/latest"]);
    // Pinned by digest, nobody needs to be asked.
    let pinned = format!("{name}:ignored@{digest}");
    let before = server.lines().len();
    resolve(&world, &pinned, &amd64(), Policy::Always).expect("known");
    assert_eq!(server.lines().len(), before);
}

#[test]
fn a_name_given_to_a_build_comes_first_and_is_not_taken_away() {
    let registry = Registry::start(&Access::Open);
    let name = format!("{}/app", registry.address);
    let theirs = sample(Family::Oci, noise(100));
    run(push(&open(quick(), &name), &theirs, "latest")).expect("pushed");
    let world = world();
    let catalog = world.puller.catalog();
    let other = resolve(&world, &name, &amd64(), Policy::Missing).expect("pulled");
    let mut ours = other.image.clone();
    ours.config.push('\n');
    let id = catalog.put(ours).expect("written");
    let reference = Reference::parse_tagged(&name).expect("valid");
    catalog.tag(&reference, &Named::one(amd64(), id)).expect("written");
    assert_eq!(resolve(&world, &name, &amd64(), Policy::Missing).expect("ours").id, id);
    assert_eq!(resolve(&world, &name, &amd64(), Policy::Always).expect("theirs").id, other.id);
    assert_eq!(resolve(&world, &name, &amd64(), Policy::Missing).expect("still ours").id, id);
}

#[test]
fn a_pulled_name_is_a_name_and_follows_the_registry() {
    let registry = Registry::start(&Access::Open);
    let name = format!("{}/multi", registry.address);
    // Layers must be tars to be taken over; an empty one is the smallest.
    let empty_tar = || sample(Family::Oci, vec![0; 1024]);
    let repository = open(quick(), &name);
    run(push(&repository, &empty_tar(), "latest")).expect("pushed");
    let world = world();
    let reference = Reference::parse(&name).expect("valid");
    let vertex = Progress::silent().vertex("pull", &[]);
    let pull = || run(world.puller.pull(&reference, &amd64(), &vertex, &Cancel::new())).expect("pulled");
    let first = pull();
    let named = world.puller.catalog().find(&name).expect("named").1;
    assert_eq!((named.images[0].id, named.digest), (first.id, first.digest));
    assert_eq!(resolve(&world, &name, &amd64(), Policy::Never).expect("there").id, first.id);

    run(push(&repository, &sample(Family::Oci, vec![0; 2048]), "latest")).expect("pushed");
    let second = resolve(&world, &name, &amd64(), Policy::Always).expect("asked");
    assert_ne!(second.id, first.id);
    assert_eq!(world.puller.catalog().find(&name).expect("named").1.images[0].id, second.id);
    assert_eq!(pull().id, second.id);
}

#[test]
fn layouts_are_sources_too() {
    let directory = tempfile::tempdir().expect("temp dir");
    let layout = Layout::create(directory.path()).expect("made");
    let index = run(push_index(&layout, "v1", 70));
    let world = world();
    let path = directory.path().display();
    let found = resolve(&world, &format!("oci-layout://{path}:v1"), &amd64(), Policy::Never).expect("there");
    assert_eq!(found.digest, Some(index.digest()));
    assert_eq!(found.image.layers[0].from, [Origin::Layout(directory.path().to_owned())]);
    let pinned = resolve(&world, &format!("oci-layout://{path}@{}", index.digest()), &amd64(), Policy::Never);
    assert_eq!(pinned.expect("there").id, found.id);
    let error = resolve(&world, &format!("oci-layout://{path}"), &amd64(), Policy::Missing).expect_err("no latest");
    assert_eq!(error, format!("oci-layout://{path}:latest: not found"));
}

#[test]
fn what_is_no_image_is_refused() {
    let server = Scripted::start(|seen, _| {
        let digest = rbuild_cache::digest::Sha256::of(b"{}");
        if seen.path.contains("/blobs/") {
            return Reply::new(200, "{}");
        }
        let blob = format!(r#"{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{digest}","size":2}}"#);
        Reply::new(200, format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{blob}]}}"#))
    });
    let error =
        resolve(&world(), &format!("{}/x", server.address), &amd64(), Policy::Missing).expect_err("an artifact");
    assert!(
        error.ends_with("not an image: config of type application/vnd.oci.empty.v1+json says nothing of layers"),
        "{error}"
    );
}

#[test]
fn without_a_network_an_image_that_fits_will_do() {
    let registry = Registry::start(&Access::Open);
    let name = format!("{}/multi", registry.address);
    run(push_index(&open(quick(), &name), "latest", 90));
    let world = world();
    let known = resolve(&world, &name, &amd64(), Policy::Missing).expect("pulled");
    drop(registry);
    let newer = Platform::new("linux", "amd64", "v3");
    for policy in [Policy::Missing, Policy::Newer] {
        assert_eq!(resolve(&world, &name, &newer, policy).expect("it runs there").id, known.id);
    }
    assert!(
        resolve(&world, &name, &newer, Policy::Always).expect_err("nobody answers").contains("failed to do request")
    );
    let arm = resolve(&world, &name, &Platform::new("linux", "arm64", ""), Policy::Missing);
    assert!(arm.expect_err("does not run there").contains("failed to do request"));
}
