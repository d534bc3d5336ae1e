//! What every place to read from and write to must do: registries of each kind, and layouts; as skopeo sees them, too.

use std::io::Read as _;
use std::sync::Arc;

use rbuild::oci::manifest::{Descriptor, Family, Packing, Parsed};
use rbuild::registry::{BlobSource, Destination, Error, Layout, Remote, Selector};

use crate::server::{self, Access, Registry};
use crate::{base64, layer, noise, open, push, quick, run, sample, tag, with_credentials};

/// What every [`Remote`] that is a [`Destination`] must do. `place` makes an empty repository.
async fn contract<R: Remote + Destination>(place: R) {
    let image = sample(Family::Oci, noise(300_000));
    let (descriptor, bytes) = &image.layer;

    // Nothing is there, and that is told apart from failing.
    assert!(place.resolve(&tag("v1")).await.expect_err("empty").is_not_found());
    assert!(place.manifest(&tag("v1")).await.expect_err("empty").is_not_found());
    assert!(place.blob(descriptor).await.expect_err("empty").is_not_found());
    assert!(!place.has_blob(descriptor, &[]).await.expect("answers"));

    push(&place, &image, "v1").await.expect("pushed");
    push(&place, &image, "v1").await.expect("pushing again changes nothing");
    assert!(place.has_blob(descriptor, &[]).await.expect("answers"));

    // By tag and by digest, the same bytes.
    let digest = image.manifest.digest();
    assert_eq!(place.resolve(&tag("v1")).await.expect("there"), digest);
    assert_eq!(place.manifest(&tag("v1")).await.expect("there"), image.manifest);
    assert_eq!(place.manifest(&Selector::Digest(digest)).await.expect("there"), image.manifest);
    assert!(place.manifest(&tag("v2")).await.expect_err("another tag").is_not_found());
    let got = place.blob(descriptor).await.expect("there").bytes(1 << 20).await.expect("good");
    assert_eq!(&got, bytes);

    // The blocking reader sees the same, and its progress ends at the size.
    let stream = place.blob(descriptor).await.expect("there");
    let (seen, progress) = (Arc::new(std::sync::Mutex::new(0)), Arc::new(std::sync::Mutex::new(0)));
    let writer = progress.clone();
    let (mut reader, _pump) = stream.into_reader(move |n| *writer.lock().expect("no panic") = n);
    let copy = seen.clone();
    tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        reader.read_to_end(&mut out).expect("good");
        *copy.lock().expect("no panic") = out.len();
    })
    .await
    .expect("no panic");
    assert_eq!((*seen.lock().expect("no panic"), *progress.lock().expect("no panic")), (300_000, 300_000));

    // What the descriptor says is what is wanted: another size is a fault, a limit is kept.
    let mut wrong = descriptor.clone();
    wrong.size -= 1;
    let error = place.blob(&wrong).await.expect("opens").bytes(1 << 20).await.expect_err("too long");
    assert!(matches!(error, Error::Size { .. }), "{error}");
    let error = place.blob(descriptor).await.expect("opens").bytes(1000).await.expect_err("limited");
    assert!(matches!(error, Error::TooLarge { limit: 1000, .. }), "{error}");

    // A source of another size is refused before it hangs anything; an untagged manifest is found by digest.
    let refused = place.push_blob(&wrong, BlobSource::Bytes(bytes.clone())).await;
    assert!(matches!(refused, Err(Error::Size { .. })));
    let other = sample(Family::Docker, noise(10));
    for (descriptor, bytes) in [&other.config, &other.layer] {
        place.push_blob(descriptor, BlobSource::Bytes(bytes.clone())).await.expect("pushed");
    }
    place.push_manifest(&other.manifest, None).await.expect("pushed");
    let found = place.manifest(&Selector::Digest(other.manifest.digest())).await.expect("there");
    assert_eq!(found, other.manifest);

    // A tag moves.
    push(&place, &other, "v1").await.expect("pushed");
    assert_eq!(place.resolve(&tag("v1")).await.expect("there"), other.manifest.digest());

    // A file as source, bigger than any buffer.
    let big = noise(3 << 20);
    let file = tempfile::NamedTempFile::new().expect("temp file");
    std::fs::write(file.path(), &big).expect("written");
    let descriptor = Descriptor::of(Family::Oci.layer(Packing::Gzip), &big);
    place.push_blob(&descriptor, BlobSource::File(file.path().to_owned())).await.expect("pushed");
    assert_eq!(place.blob(&descriptor).await.expect("there").bytes(4 << 20).await.expect("good"), big);
}

#[test]
fn contract_of_a_registry() {
    let registry = Registry::start(&Access::Open);
    run(contract(open(quick(), &format!("{}/a/b", registry.address))));
}

#[test]
fn contract_of_a_layout() {
    let directory = tempfile::tempdir().expect("temp dir");
    let layout = Layout::create(&directory.path().join("x")).expect("made");
    run(contract(layout));
    assert!(server::file_count(&directory.path().join("x/blobs/sha256")) >= 5);
    assert_eq!(server::file_count(&directory.path().join("x")), 3, "no temporary file is left");
}

#[test]
fn contract_of_a_registry_with_a_password() {
    let registry = Registry::start(&Access::Password);
    let name = format!("{}/a", registry.address);
    let auth = |user: &str| {
        let pair = base64(&format!("{user}:secret"));
        with_credentials(&format!(r#"{{"auths":{{"{}":{{"auth":"{pair}"}}}}}}"#, registry.address))
    };
    run(contract(open(auth("alice"), &name)));
    // Several first requests at once are all challenged; each is answered.
    let blob = layer(b"x");
    run(async {
        let fresh = open(auth("alice"), &name);
        let asks = (0..8).map(|_| (fresh.clone(), blob.clone()));
        let tasks: Vec<_> = asks.map(|(r, d)| tokio::spawn(async move { r.has_blob(&d, &[]).await })).collect();
        for task in tasks {
            assert!(!task.await.expect("no panic").expect("answered"));
        }
    });
    let error = run(async { open(auth("mallory"), &name).resolve(&tag("v1")).await }).expect_err("wrong name");
    assert!(error.to_string().contains("pull access denied"), "{error}");
    let error = run(async { push(&open(quick(), &name), &sample(Family::Oci, vec![1]), "x").await });
    assert!(error.expect_err("anonymous").to_string().contains("push access denied"));
}

#[test]
fn contract_of_a_registry_with_a_self_signed_certificate() {
    let registry = Registry::start(&Access::Tls);
    run(contract(open(quick(), &format!("{}/a", registry.address))));
}

#[test]
fn a_layout_made_by_skopeo_is_read() {
    let registry = Registry::start(&Access::Open);
    let image = sample(Family::Oci, noise(100));
    run(push(&open(quick(), &format!("{}/a", registry.address)), &image, "v1")).expect("pushed");
    let directory = tempfile::tempdir().expect("temp dir");
    let from = format!("docker://{}/a:v1", registry.address);
    registry.skopeo(&["copy", "--preserve-digests", &from, &format!("oci:{}:some/tag", directory.path().display())]);
    let layout = Layout::open(directory.path()).expect("a layout");
    assert_eq!(run(layout.resolve(&tag("some/tag"))).expect("there"), image.manifest.digest());

    // A blob that rotted is noticed.
    let path = directory.path().join("blobs/sha256").join(image.layer.0.digest.0.hex());
    std::fs::write(path, vec![0; image.layer.1.len()]).expect("written");
    let error = run(async { layout.blob(&image.layer.0).await?.bytes(1 << 20).await }).expect_err("rotten");
    assert!(matches!(error, Error::Digest { .. }));
    let error = Layout::open(&directory.path().join("nothing")).expect_err("no directory");
    assert!(error.is_not_found());
}

#[test]
fn skopeo_reads_what_we_push_and_we_read_what_it_pushes() {
    let registry = Registry::start(&Access::Open);
    let repository = open(quick(), &format!("{}/ours", registry.address));
    let image = sample(Family::Docker, noise(1000));
    run(push(&repository, &image, "v1")).expect("pushed");
    let ours = format!("docker://{}/ours:v1", registry.address);
    assert_eq!(registry.skopeo(&["inspect", "--raw", &ours]).as_bytes(), image.manifest.bytes());

    let theirs = format!("docker://{}/theirs:v2", registry.address);
    registry.skopeo(&["copy", "--format=oci", &ours, &theirs]);
    let repository = open(quick(), &format!("{}/theirs", registry.address));
    let document = run(async { repository.manifest(&tag("v2")).await }).expect("there");
    let Ok(Parsed::Manifest(manifest)) = document.parse() else { panic!("a manifest") };
    assert_eq!(manifest.config.digest, image.config.0.digest);
    let layer = run(async { repository.blob(&manifest.layers[0]).await?.bytes(1 << 20).await });
    assert!(layer.is_ok(), "{layer:?}");
}
