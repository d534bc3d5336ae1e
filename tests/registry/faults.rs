//! What can go wrong on the way to a registry, as a matrix: a request of every kind meets every fault, once and for ever.
//!
//! Each case ends in success or in one error that says what and where; whatever the end, what is in the store or in the
//! registry afterwards is right, and nothing waits for ever.

use std::sync::Mutex;
use std::time::Duration;

use rbuild::cancel::Cancel;
use rbuild::catalog::pull::{Policy, Puller, Source};
use rbuild::event::Progress;
use rbuild::layers::{Layers, TreeOptions};
use rbuild::oci::manifest::{Descriptor, Family, Packing};
use rbuild::oci::platform::Platform;
use rbuild::oci::reference::Reference;
use rbuild::registry::{BlobSource, Client, Destination as _, Options, Remote as _, Retry};
use rbuild_cache::{Store, StoreOptions};

use crate::proxy::{Fault, Kind, Proxy, Spoil};
use crate::server::{Access, Registry};
use crate::{Sample, noise, open, push, quick, run, sample, tag};

/// How a case ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Good,
    /// With an error that has these words.
    Bad(&'static str),
}
use End::{Bad, Good};

/// What is done when the fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// An image is pulled into an empty store.
    Pull,
    /// A tag is looked at again.
    Look,
    /// An image is pushed.
    Push,
    /// A layer is pushed in chunks.
    Chunks,
    /// A layer is mounted from another repository, or pushed if that cannot be.
    Mount,
}

const SILENCE: Duration = Duration::from_secs(1);
const ALWAYS: usize = usize::MAX;

const RESET: &str = "connection reset";
const FULL: &str = "507 Insufficient Storage: unknown: no space left on device";
const SLOW: &str = "too slow: ";
const SILENT: &str = "nothing moved for";
const BUSY: Fault =
    Fault::Answer(429, "retry-after: 0", r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#);
const BROKEN: Fault = Fault::Answer(500, "", r#"{"errors":[{"code":"UNKNOWN","message":"unknown error"}]}"#);
const AWAY: Fault = Fault::Answer(503, "", "<html>Service Unavailable</html>");
const DISK_FULL: Fault =
    Fault::Answer(507, "", r#"{"errors":[{"code":"UNKNOWN","message":"no space left on device"}]}"#);
const TOO_BIG: Fault = Fault::Answer(413, "", "<html>Request Entity Too Large</html>");
const QUOTA: Fault =
    Fault::Answer(403, "", r#"{"errors":[{"code":"DENIED","message":"adding 3 MiB would exceed the quota"}]}"#);

/// Request, fault, what it leads to if it happens once, and if it always happens.
fn matrix() -> Vec<(Job, Kind, Fault, End, End)> {
    use Fault::{CutAnswer, CutBody, CutRequest, Expired, Mute, Shorter, Stall, Wrong};
    use Job::{Chunks, Look, Mount, Pull, Push};
    use Kind::{
        BlobGet, BlobHead, ManifestGet, ManifestHead, ManifestPut, Token, UploadGet, UploadPatch, UploadPost, UploadPut,
    };
    let drip = Fault::Drip(Duration::from_millis(30));
    let mut rows = vec![
        (Pull, Token, CutRequest, Good, Bad(RESET)),
        (Pull, Token, CutAnswer, Good, Bad(RESET)),
        (Pull, Token, CutBody, Good, Bad(RESET)),
        (Pull, Token, Mute, Good, Bad(SILENT)),
        (Pull, Token, BUSY, Good, Bad("429 Too Many Requests: toomanyrequests: slow down")),
        (Pull, Token, BROKEN, Good, Bad("500 Internal Server Error: unknown: unknown error")),
        (Pull, Token, AWAY, Good, Bad("503 Service Unavailable")),
        (Pull, Token, Shorter, Bad("token server"), Bad("token server")),
        (Look, ManifestHead, CutRequest, Good, Bad(RESET)),
        (Look, ManifestHead, CutAnswer, Good, Bad(RESET)),
        (Look, ManifestHead, Mute, Good, Bad(SILENT)),
        (Look, ManifestHead, BUSY, Good, Bad("429 Too Many Requests")),
        (Look, ManifestHead, BROKEN, Good, Bad("500 Internal Server Error")),
        (Look, ManifestHead, AWAY, Good, Bad("503 Service Unavailable")),
        (Look, ManifestHead, Expired, Good, Bad("pull access denied")),
        (Pull, ManifestGet, CutRequest, Good, Bad(RESET)),
        (Pull, ManifestGet, CutAnswer, Good, Bad(RESET)),
        (Pull, ManifestGet, CutBody, Good, Bad(RESET)),
        (Pull, ManifestGet, Shorter, Good, Bad("digest mismatch")),
        (Pull, ManifestGet, Wrong, Good, Bad("digest mismatch")),
        (Pull, ManifestGet, Mute, Good, Bad(SILENT)),
        (Pull, ManifestGet, Stall, Good, Bad(SLOW)),
        (Pull, ManifestGet, drip.clone(), Good, Bad(SLOW)),
        (Pull, ManifestGet, BUSY, Good, Bad("429 Too Many Requests")),
        (Pull, ManifestGet, BROKEN, Good, Bad("500 Internal Server Error")),
        (Pull, ManifestGet, AWAY, Good, Bad("503 Service Unavailable")),
        (Pull, ManifestGet, Expired, Good, Bad("pull access denied")),
        (Pull, BlobGet, CutRequest, Good, Bad(RESET)),
        (Pull, BlobGet, CutAnswer, Good, Bad(RESET)),
        (Pull, BlobGet, CutBody, Good, Bad(RESET)),
        (Pull, BlobGet, Shorter, Good, Bad("size mismatch")),
        (Pull, BlobGet, Wrong, Good, Bad("digest mismatch")),
        (Pull, BlobGet, Mute, Good, Bad(SILENT)),
        (Pull, BlobGet, Stall, Good, Bad(SLOW)),
        (Pull, BlobGet, drip.clone(), Good, Bad(SLOW)),
        (Pull, BlobGet, BUSY, Good, Bad("429 Too Many Requests")),
        (Pull, BlobGet, BROKEN, Good, Bad("500 Internal Server Error")),
        (Pull, BlobGet, AWAY, Good, Bad("503 Service Unavailable")),
        (Pull, BlobGet, Expired, Good, Bad("pull access denied")),
        (Chunks, UploadGet, CutRequest, Good, Good),
        (Chunks, UploadGet, Mute, Good, Good),
        (Chunks, UploadGet, BROKEN, Good, Good),
        (Chunks, UploadGet, Expired, Good, Good),
        (Mount, Kind::Mount, CutRequest, Good, Good),
        (Mount, Kind::Mount, CutAnswer, Good, Good),
        (Mount, Kind::Mount, Mute, Good, Good),
        (Mount, Kind::Mount, BROKEN, Good, Good),
        (Mount, Kind::Mount, AWAY, Good, Good),
        (Mount, Kind::Mount, BUSY, Good, Good),
        (Mount, Kind::Mount, Expired, Good, Good),
        (Mount, Kind::Mount, Fault::Answer(405, "", ""), Good, Good),
        (Mount, Kind::Mount, Fault::Answer(202, "", ""), Good, Good),
    ];
    // What is written: the same faults for every request, and the ways to be full.
    for (job, kind) in [
        (Push, BlobHead),
        (Push, UploadPost),
        (Push, UploadPut),
        (Push, ManifestPut),
        (Chunks, UploadPatch),
        (Chunks, UploadPut),
    ] {
        rows.extend([
            (job, kind, CutRequest, Good, Bad(RESET)),
            // A blob whose upload was never confirmed is found to be there.
            (job, kind, CutAnswer, Good, if kind == UploadPut { Good } else { Bad(RESET) }),
            (job, kind, Mute, Good, Bad(SILENT)),
            (job, kind, BUSY, Good, Bad("429 Too Many Requests")),
            (job, kind, BROKEN, Good, Bad("500 Internal Server Error")),
            (job, kind, AWAY, Good, Bad("503 Service Unavailable")),
            (job, kind, Expired, Good, Bad("push access denied")),
        ]);
        if kind != BlobHead {
            rows.extend([
                (job, kind, DISK_FULL, Bad(FULL), Bad(FULL)),
                (job, kind, QUOTA, Bad("would exceed the quota"), Bad("would exceed the quota")),
            ]);
        }
    }
    rows.push((Push, UploadPut, TOO_BIG, Good, Bad("413 Payload Too Large")));
    rows.push((Chunks, UploadPatch, TOO_BIG, Bad("413 Payload Too Large"), Bad("413 Payload Too Large")));
    rows
}

/// Patience for tests: pauses of no length to speak of, and silences that a busy machine does not have by itself.
fn options(silence: Duration) -> Options {
    let (first, longest) = (Duration::from_millis(2), Duration::from_millis(10));
    Options { retry: Retry { attempts: 3, first, longest, silence }, ..Options::default() }
}

/// What all cases share: a registry with an image in it.
struct World {
    registry: Registry,
    image: Sample,
}

impl World {
    fn new() -> Self {
        let registry = Registry::start(&Access::Open);
        // An image of one layer that is a tar: one file that does not compress, and padding.
        let mut tar = tar::Builder::new(Vec::new());
        let data = noise(700_000);
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "data", data.as_slice()).expect("memory");
        let image = sample(Family::Oci, tar.into_inner().expect("memory"));
        run(push(&open(quick(), &format!("{}/base", registry.address)), &image, "v1")).expect("pushed");
        Self { registry, image }
    }

    fn direct(&self, path: &str) -> rbuild::registry::Repository {
        open(quick(), &format!("{}/{path}", self.registry.address))
    }

    /// Does a job through a proxy that spoils it; the error's text, or nothing.
    fn end(&self, n: usize, job: Job, spoil: Vec<Spoil>) -> Result<(), String> {
        let proxy = Proxy::guarded(&self.registry.address, spoil);
        let done = match job {
            Job::Pull => self.pull(&proxy, Policy::Missing),
            Job::Look => self.pull(&proxy, Policy::Always),
            Job::Push => {
                let path = format!("push-{n}");
                let image = sample(Family::Oci, noise(3_000_000 + n));
                let there = open(options(SILENCE), &format!("{}/{path}", proxy.address));
                let done = run(push(&there, &image, "v1"));
                // What has the tag is the image, whole, also if the answer to the last request was lost.
                let direct = self.direct(&path);
                match run(direct.manifest(&tag("v1"))) {
                    Ok(found) => {
                        assert_eq!(found, image.manifest);
                        for (descriptor, bytes) in [&image.layer, &image.config] {
                            let got = run(async { direct.blob(descriptor).await?.bytes(1 << 30).await });
                            assert!(got.expect("whole") == *bytes);
                        }
                    }
                    Err(error) => assert!(done.is_err() && error.is_not_found(), "{done:?}, but {error}"),
                }
                done.map_err(|error| error.to_string())
            }
            Job::Chunks => {
                let path = format!("chunks-{n}");
                let body = noise((12 << 20) + n);
                let descriptor = Descriptor::of(Family::Oci.layer(Packing::Gzip), &body);
                let there = open(options(3 * SILENCE), &format!("{}/{path}", proxy.address));
                let done = run(there.push_blob_in_chunks(&descriptor, &BlobSource::Bytes(body.clone())));
                let got = run(async { self.direct(&path).blob(&descriptor).await?.bytes(1 << 30).await });
                match got {
                    Ok(got) => assert!(got == body),
                    Err(error) => assert!(done.is_err() && error.is_not_found(), "{done:?}, but {error}"),
                }
                done.map_err(|error| error.to_string())
            }
            Job::Mount => {
                let path = format!("mount-{n}");
                let there = open(options(SILENCE), &format!("{}/{path}", proxy.address));
                let (descriptor, bytes) = &self.image.layer;
                let done = run(async {
                    if !there.has_blob(descriptor, &[format!("{}/base", proxy.address)]).await? {
                        there.push_blob(descriptor, BlobSource::Bytes(bytes.clone())).await?;
                    }
                    Ok::<_, rbuild::registry::Error>(())
                });
                assert!(done.is_err() || run(self.direct(&path).has_blob(descriptor, &[])).expect("answers"));
                done.map_err(|error| error.to_string())
            }
        };
        if let Err(error) = &done {
            let named = error.contains(&proxy.address) || error.contains("127.0.0.1:");
            assert!(named, "the error says where: {error}");
        }
        done
    }

    /// Pulls with an empty store; to look again, after it was pulled without the proxy.
    fn pull(&self, proxy: &Proxy, policy: Policy) -> Result<(), String> {
        let directory = tempfile::tempdir().expect("temp dir");
        let store = Store::open(&directory.path().join("store"), StoreOptions::default()).expect("opened");
        let layers = Layers::new(store, TreeOptions::ROOT, Cancel::new());
        let amd64 = Platform::new("linux", "amd64", "");
        let vertex = Progress::silent().vertex("pull", &[]);
        let name = Reference::parse(&format!("{}/base:v1", proxy.address)).expect("valid");
        let puller = Puller::new(layers.clone(), Client::new(options(SILENCE)));
        let source = Source::Image(name);
        if policy == Policy::Always {
            run(puller.resolve(&source, &amd64, Policy::Missing, None)).map_err(|error| error.to_string())?;
        }
        let found = run(async {
            let found = puller.resolve(&source, &amd64, policy, None).await?;
            puller.ensure_layers(&found.image, &vertex, &Cancel::new()).await?;
            Ok::<_, rbuild::catalog::pull::PullError>(found)
        });
        match found {
            Ok(found) => {
                assert_eq!(found.image.manifest.as_ref(), Some(&self.image.manifest));
                assert_eq!(found.image.config.as_bytes(), self.image.config.1);
                let record = layers.record(&found.image.layers[0].layer).expect("read").expect("the layer");
                assert_eq!(record.diff_id, found.image.layers[0].diff_id);
                Ok(())
            }
            Err(error) => {
                // A broken layer is not there.
                let diff_id = rbuild_cache::digest::DiffId(self.image.layer.0.digest.0);
                assert!(layers.by_diff_id(&diff_id).expect("read").is_none(), "{error}");
                Err(error.to_string())
            }
        }
    }
}

#[test]
fn tokens_stay_at_home_when_storage_is_elsewhere() {
    let world = World::new();
    let storage = Proxy::open(&world.registry.address, Vec::new());
    let elsewhere = |kind| Spoil { kind, fault: Fault::Elsewhere(storage.address.clone()), times: ALWAYS };
    let spoil = vec![elsewhere(Kind::BlobGet), elsewhere(Kind::UploadPatch), elsewhere(Kind::UploadPut)];
    for (n, job) in [Job::Pull, Job::Push, Job::Chunks].into_iter().enumerate() {
        assert_eq!(world.end(1000 + n, job, spoil.clone()), Ok(()), "{job:?}");
    }
    for kind in [Kind::BlobGet, Kind::UploadPatch, Kind::UploadPut] {
        let seen = storage.seen(kind);
        assert!(!seen.is_empty() && seen.iter().all(|seen| seen.header("authorization").is_none()), "{kind:?}");
    }
}

#[test]
fn every_request_meets_every_fault() {
    let world = World::new();
    let mut cases = Vec::new();
    for (job, kind, fault, once, always) in matrix() {
        for (times, end) in [(1, once), (ALWAYS, always)] {
            let mut spoil = vec![Spoil { kind, fault: fault.clone(), times }];
            if kind == Kind::UploadGet {
                // Only asked for when something else went wrong.
                spoil.push(Spoil { kind: Kind::UploadPatch, fault: Fault::CutRequest, times: 1 });
            }
            cases.push((job, kind, fault.clone(), times, end, spoil));
        }
    }
    let (next, wrong) = (std::sync::atomic::AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let Some((job, kind, fault, times, end, spoil)) = cases.get(n) else { return };
                    let found = std::panic::catch_unwind(|| world.end(n, *job, spoil.clone()));
                    let fits = match (&found, end) {
                        (Ok(Ok(())), Good) => true,
                        (Ok(Err(text)), Bad(words)) => text.to_lowercase().contains(&words.to_lowercase()),
                        _ => false,
                    };
                    if !fits {
                        let times = if *times == ALWAYS { "always" } else { "once" };
                        let found = found.map_err(|_| "panicked");
                        let line =
                            format!("{job:?}: {kind:?} meets {fault:?} {times}: expected {end:?}, found {found:?}");
                        wrong.lock().expect("no panic").push(line);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic");
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
