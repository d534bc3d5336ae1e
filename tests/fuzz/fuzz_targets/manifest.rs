//! Any bytes are a manifest, an index or an image config, or refused; what was read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::oci::config::ImageConfig;
use rbuild::oci::manifest::{self, DOCKER_LIST, DOCKER_MANIFEST, Document, Index, Manifest, Parsed};
use rbuild::oci::platform::Platform;

fn of_manifest(manifest: &Manifest) {
    let document = Document::of_manifest(manifest);
    // Its own media type may be any text, which nobody could read a document by.
    if !manifest::is_manifest(document.media_type()) {
        return;
    }
    let Ok(Parsed::Manifest(again)) = document.parse() else { panic!("written, and not to be read") };
    assert_eq!((&again.layers.len(), &again.config.digest), (&manifest.layers.len(), &manifest.config.digest));
    for layer in &manifest.layers {
        drop(manifest::packing(&layer.media_type));
        drop(manifest::is_foreign(&layer.media_type));
    }
}

fn of_index(index: &Index) {
    let host = Platform::new("linux", "arm", "v7");
    match index.select(&host) {
        Ok(entry) => assert!(index.manifests.contains(entry)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let document = Document::of_index(index);
    if !manifest::is_index(document.media_type()) {
        return;
    }
    let Ok(Parsed::Index(again)) = document.parse() else { panic!("written, and not to be read") };
    assert_eq!(again.manifests.len(), index.manifests.len());
}

fuzz_target!(|bytes: &[u8]| {
    for media_type in [None, Some(DOCKER_MANIFEST), Some(DOCKER_LIST), Some("text/plain; charset=utf-8")] {
        match Document::new(bytes.to_vec(), media_type).and_then(|document| document.parse()) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(Parsed::Manifest(manifest)) => of_manifest(&manifest),
            Ok(Parsed::Index(index)) => of_index(&index),
        }
    }
    if let Ok(config) = manifest::read::<ImageConfig>("image config", bytes) {
        let written = serde_json::to_vec(&config).expect("has a JSON form");
        let again: ImageConfig = manifest::read("image config", &written).expect("written, and not to be read");
        assert_eq!((again.rootfs, again.config, again.history), (config.rootfs, config.config, config.history));
    }
});
