//! Mirrors: asked first, for what they are good for, and left for the next place at whatever they fail.

use std::collections::BTreeMap;
use std::time::Duration;

use rbuild::oci::manifest::Family;
use rbuild::registry::{HostOptions, Options, Remote as _, Repository, Retry};

use crate::server::{Access, Registry, Reply, Scripted, Seen};
use crate::{fetch, layer, noise, open, push, quick, run, sample, tag};

#[test]
fn mirrors_are_tried_first_and_the_origin_answers_for_them() {
    let registry = Registry::start(&Access::Open);
    let image = sample(Family::Oci, noise(100));
    let name = format!("{}/a", registry.address);
    run(push(&open(quick(), &name), &image, "v1")).expect("pushed");
    let broken = Scripted::start(|_, _| Reply::new(404, ""));
    let mirrors = vec![format!("http://{}/proxy", broken.address)];
    let hosts = BTreeMap::from([(registry.address.clone(), HostOptions { mirrors, ..HostOptions::default() })]);
    let repository = open(Options { hosts, ..quick() }, &name);
    assert_eq!(run(async { repository.manifest(&tag("v1")).await }).expect("from the origin"), image.manifest);
    assert_eq!(fetch(&repository, &image.layer.0).expect("from the origin"), image.layer.1);
    let ns = registry.address.replace(':', "%3A");
    assert_eq!(broken.lines()[0], format!("GET /v2/proxy/a/manifests/v1?ns={ns}"));

    let mirrors = vec![format!("http://{}", registry.address)];
    let hosts = BTreeMap::from([("origin.invalid".to_owned(), HostOptions { mirrors, ..HostOptions::default() })]);
    let repository = open(Options { hosts, ..quick() }, "origin.invalid/a");
    assert_eq!(run(async { repository.manifest(&tag("v1")).await }).expect("from the mirror"), image.manifest);
}

/// The repository `x` of an origin with mirrors before it.
fn mirrored(origin: &Scripted, mirrors: &[&Scripted]) -> Repository {
    let mirrors = mirrors.iter().map(|mirror| format!("http://{}", mirror.address)).collect();
    let hosts = BTreeMap::from([(origin.address.clone(), HostOptions { mirrors, ..HostOptions::default() })]);
    open(Options { hosts, ..quick() }, &format!("{}/x", origin.address))
}

/// Where a request wants a blob to begin.
fn beginning(seen: &Seen) -> usize {
    seen.header("range").map_or(0, |range| range[6..range.len() - 1].parse().expect("a number"))
}

/// A server that has the blob and gives any part of it.
fn whole(body: Vec<u8>) -> Scripted {
    Scripted::start(move |seen, _| match beginning(seen) {
        0 => Reply::new(200, body.clone()),
        from => Reply::new(206, &body[from..]).with("content-range", format!("bytes {from}-/{}", body.len())),
    })
}

#[test]
fn the_next_place_goes_on_where_a_mirror_fell_silent() {
    let body = noise(100_000);
    let origin = whole(body.clone());
    // The first breaks off and is gone afterwards; the second never had it.
    let data = body.clone();
    let first = Scripted::start(move |_, n| match n {
        0 => Reply::new(200, data.clone()).cut(20_000),
        _ => Reply::new(502, "").with("retry-after", "0"),
    });
    let second = Scripted::start(|_, _| Reply::new(404, ""));
    let repository = mirrored(&origin, &[&first, &second]);
    assert_eq!(fetch(&repository, &layer(&body)).expect("complete"), body);
    let asked = origin.requests();
    assert_eq!(asked.len(), 1);
    assert!((1..=20_000).contains(&beginning(&asked[0])), "only the rest: {:?}", asked[0].header("range"));
    assert_eq!(second.requests()[0].header("range"), asked[0].header("range"));
    let first = first.requests();
    assert!(first.len() > 1 && first[1..].iter().all(|seen| beginning(seen) > 0), "it was asked again, for the rest");
}

#[test]
fn a_mirror_that_gave_wrong_bytes_is_not_asked_again() {
    let body = noise(5000);
    let origin = whole(body.clone());
    let wrong = whole(noise(4999).into_iter().chain([0]).collect());
    let repository = mirrored(&origin, &[&wrong]);
    assert!(fetch(&repository, &layer(&body)).is_err_and(|error| error.is_damage()));
    assert_eq!(fetch(&repository, &layer(&body)).expect("from the origin"), body);
    assert_eq!((wrong.lines().len(), origin.lines().len()), (1, 1));
}

#[test]
fn nobody_waits_for_a_mirror_that_is_not_there() {
    let body = noise(100);
    let origin = whole(body.clone());
    let mut gone = whole(Vec::new());
    "127.0.0.1:1".clone_into(&mut gone.address);
    // Patience for hours, if it were used.
    let retry = Retry { attempts: 50, first: Duration::from_secs(60), ..Retry::default() };
    let mirrors = vec![format!("http://{}", gone.address)];
    let hosts = BTreeMap::from([(origin.address.clone(), HostOptions { mirrors, ..HostOptions::default() })]);
    let repository = open(Options { hosts, retry, ..quick() }, &format!("{}/x", origin.address));
    assert_eq!(fetch(&repository, &layer(&body)).expect("from the origin"), body);
    // What nobody has is told in the origin's words.
    let empty = Scripted::start(|_, _| Reply::new(404, ""));
    let error = fetch(&mirrored(&empty, &[&gone]), &layer(&body)).expect_err("nobody has it");
    assert!(error.is_not_found() && error.to_string().contains(&empty.address), "{error}");
}
