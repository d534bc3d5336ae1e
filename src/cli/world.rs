//! What commands work with, opened in the one order that is possible: command line, namespaces (while there is one thread),
//! store, runtime, signals.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rbuild_cache::{ObjectRef, References, Store, StoreOptions};

use super::Failure;
use super::env::Env;
use super::registries;
use super::request::{RegistryRequest, StoreRequest};
use crate::cancel::Cancel;
use crate::catalog::pull::Puller;
use crate::catalog::{self, Catalog};
use crate::engine;
use crate::event::Progress;
use crate::exec::{self, EnterOptions, Limits, Ownership, Session};
use crate::layers::{self, Layers, OwnershipMode, TreeOptions};
use crate::registry::Client;

/// How long running steps get to end after a signal, before the second one is not waited for.
const EXIT_ON_SECOND_SIGNAL: i32 = 130;

/// Stack of threads that walk trees. A path has at most 2048 parts, and some walks go down part by part; untouched pages cost
/// nothing.
const STACK: usize = 256 << 20;

/// Everything that is open while a command runs.
pub(super) struct Opened {
    /// Namespaces and launcher; gone when this is dropped.
    pub(super) session: Session,
    /// The store.
    pub(super) store: Store,
    /// Its layers.
    pub(super) layers: Layers,
    /// Waiting on network and signals.
    pub(super) runtime: tokio::runtime::Runtime,
    /// Raised by the first SIGINT or SIGTERM.
    pub(super) cancel: Cancel,
    /// How many threads compress at once.
    pub(super) threads: usize,
}

/// The system's clock, for everything that is handed one.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// Enters the namespaces the command needs. Must come before anything that starts a thread.
pub(super) fn enter(need_sandbox: bool) -> Result<Session, Failure> {
    enter_with(need_sandbox, Limits::default(), None)
}

/// The same for a command whose steps are limited, or run by an OCI runtime.
pub(super) fn enter_with(need_sandbox: bool, limits: Limits, runtime: Option<PathBuf>) -> Result<Session, Failure> {
    let options = EnterOptions { need_sandbox, need_userns: true, limits, runtime };
    let session = exec::enter(&options).map_err(|e| Failure::of(&e))?;
    more_files();
    Ok(session)
}

/// Lets this process open as many files as it may. The launcher was forked before, so steps keep the usual soft limit.
fn more_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // It is only slower, or fails later with a clear error, when this is refused.
    let _ = setrlimit(Resource::Nofile, limit);
}

impl Opened {
    /// Opens the store and what hangs on it.
    pub(super) fn new(session: Session, request: &StoreRequest) -> Result<Self, Failure> {
        let options = StoreOptions {
            max_bytes: request.max_bytes,
            trees: session.trees_suffix.clone(),
            references: References::new(references),
        };
        let store = Store::open(&request.root, options).map_err(|e| Failure::of(&e))?;
        // An error says that it is there already, which is as good.
        let pool = rayon::ThreadPoolBuilder::new().stack_size(STACK).num_threads(request.threads);
        let _ = pool.build_global();
        let ownership = match session.ownership {
            Ownership::Exact => OwnershipMode::Exact,
            Ownership::Flattened => OwnershipMode::Flattened,
        };
        let runtime = runtime()?;
        let cancel = Cancel::new();
        let (overlay, bound_by_modes) = (session.overlay_xattrs, session.bound_by_modes);
        let layers = Layers::new(store.clone(), TreeOptions { overlay, ownership, bound_by_modes }, cancel.clone());
        watch_signals(&runtime, &cancel);
        tidy_up(&store);
        Ok(Self { session, store, layers, runtime, cancel, threads: request.threads })
    }

    /// The images in the store.
    pub(super) fn catalog(&self) -> Catalog {
        Catalog::new(self.store.clone())
    }

    /// What fetches images, with the user's credentials and settings.
    pub(super) fn puller(&self, env: &Env, request: &RegistryRequest, progress: &Progress) -> Result<Puller, Failure> {
        let options = registries::options(env, request, progress, self.session.host())?;
        Ok(Puller::new(self.layers.clone(), Client::new(options)))
    }

    /// Where roots of steps are tried out.
    pub(super) fn scratch(&self) -> Result<rbuild_cache::TempDir, Failure> {
        self.store.temp_dir("probe").map_err(|e| Failure::of(&e))
    }

    /// How steps get their roots.
    pub(super) fn snapshots(&self, scratch: &Path) -> Arc<dyn crate::snapshot::Snapshots> {
        self.session.snapshots(scratch)
    }
}

/// Does `work` on a thread that has room for trees as deep as a path can be.
pub(super) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("build".to_owned()).stack_size(STACK).spawn_scoped(scope, work);
        let done = thread.map_err(|e| Failure::of(&e).named("start a thread"))?.join();
        // A panic goes on where it would have gone without the thread.
        Ok(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

impl Drop for Opened {
    /// The thread that tidies up may still be at it, and is not waited for.
    fn drop(&mut self) {
        self.store.close();
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|e| Failure::of(&e))
}

/// What commands work with that talk to registries and open no store: no namespaces either.
pub(super) struct Line {
    /// Waiting on network and signals.
    pub(super) runtime: tokio::runtime::Runtime,
    /// Raised by the first SIGINT or SIGTERM.
    pub(super) cancel: Cancel,
}

impl Line {
    /// Opens it.
    pub(super) fn new() -> Result<Self, Failure> {
        let (runtime, cancel) = (runtime()?, Cancel::new());
        watch_signals(&runtime, &cancel);
        Ok(Self { runtime, cancel })
    }

    /// Waits for something to be done, or for the user to want no more of it.
    pub(super) fn wait<T>(&self, work: impl Future<Output = Result<T, crate::registry::Error>>) -> Result<T, Failure> {
        /// How often it is looked whether the user wants no more.
        const CHECK: std::time::Duration = std::time::Duration::from_millis(100);
        self.runtime.block_on(async {
            let mut work = std::pin::pin!(work);
            loop {
                if let Ok(done) = tokio::time::timeout(CHECK, &mut work).await {
                    return done.map_err(|e| Failure::of(&e).helped(e.help()));
                }
                if self.cancel.is_cancelled() {
                    return Err(Failure::text("canceled"));
                }
            }
        })
    }
}

/// What the small files of the store refer to, for its garbage collection.
fn references(kind: rbuild_cache::Kind, name: &str, bytes: &[u8]) -> Vec<ObjectRef> {
    catalog::references(kind, name, bytes)
        .or_else(|| layers::references(kind, name, bytes))
        .or_else(|| engine::references(kind, name, bytes))
        .unwrap_or_default()
}

/// Beside the command: removes what killed processes left, and makes what earlier builds wrote survive a power failure. Neither
/// matters to this command, so failures are left to the next one, and nobody waits for the disk.
fn tidy_up(store: &Store) {
    let (store, syncer) = (store.clone(), store.syncer());
    std::thread::spawn(move || {
        let _ = store.sweep();
        drop(store);
        if syncer.is_due() {
            let _ = syncer.sync();
        }
    });
}

/// The first SIGINT or SIGTERM cancels what is going on, the second one ends the process now.
fn watch_signals(runtime: &tokio::runtime::Runtime, cancel: &Cancel) {
    use tokio::signal::unix::{SignalKind, signal};
    let cancel = cancel.clone();
    let _enter = runtime.enter();
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers a signal ends us at once, which the launcher's death turns into the end of all steps.
        return;
    };
    runtime.spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if first {
                cancel.cancel();
            }
        }
        #[expect(clippy::exit, reason = "the user asked twice; the launcher notices and kills the steps")]
        std::process::exit(EXIT_ON_SECOND_SIGNAL);
    });
}
