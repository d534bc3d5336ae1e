//! Compressing finished layers while later steps still run, when an output is sure to want them.
//!
//! One thread, one layer at a time, at low priority: steps come first, idle cores do the rest. When the steps are over, what was
//! not begun is left to whoever exports, at full speed; what was begun is waited for through the layer's own lock. Nothing here
//! can fail a build: a layer that cannot be compressed now is said so by the export. The bytes are the same either way.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use rbuild_cache::digest::LayerId;

use super::{Framing, Layers};
use crate::cancel::Cancel;

/// How much less than a step a compressing thread gets of a busy core: about a tenth.
const NICENESS: i32 = 10;

/// What outputs will want compressed, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Layers of the result: pushes, archives, caches of `mode=min`.
    pub result: BTreeSet<Framing>,
    /// Layers of every step: caches of `mode=max`.
    pub every: BTreeSet<Framing>,
}

/// Compresses layers of a build that goes on. Dropping it stops what is under way.
#[derive(Debug)]
pub struct Ahead {
    wanted: Wanted,
    layers: Layers,
    threads: usize,
    stop: Cancel,
    queue: Arc<Queue>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    layers: VecDeque<(LayerId, Framing)>,
    /// All that were ever asked for: once is enough.
    known: BTreeSet<(LayerId, Framing)>,
    closed: bool,
}

impl Ahead {
    /// Nothing begins before the first layer comes. Up to `threads` threads compress the one layer that is under way.
    pub fn new(layers: &Layers, wanted: Wanted, threads: usize) -> Self {
        let stop = Cancel::new();
        let layers = Layers { cancel: stop.clone(), ..layers.clone() };
        Self { wanted, layers, threads, stop, queue: Arc::default(), worker: Mutex::default() }
    }

    /// Takes note of a finished layer; `in_result` if the image will have it.
    pub fn finished(&self, id: LayerId, in_result: bool) {
        let result = self.wanted.result.iter().filter(|_| in_result);
        let framings: BTreeSet<Framing> = self.wanted.every.iter().chain(result).copied().collect();
        if framings.is_empty() {
            return;
        }
        let mut state = self.queue.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return;
        }
        for framing in framings {
            if state.known.insert((id, framing)) {
                state.layers.push_back((id, framing));
            }
        }
        drop(state);
        self.queue.more.notify_one();
        self.start();
    }

    /// No step runs any more: what was not begun is not begun.
    pub fn close(&self) {
        let mut state = self.queue.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.layers.clear();
        self.queue.more.notify_one();
    }

    fn start(&self) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_some() {
            return;
        }
        let (layers, queue, threads) = (self.layers.clone(), Arc::clone(&self.queue), self.threads);
        let run = move || {
            // Of this thread and those it starts. If it is refused, layers are compressed at the priority of steps.
            let _still_worth_it = rustix::process::nice(NICENESS);
            while let Some((id, framing)) = queue.next() {
                compress(&layers, &id, framing, threads);
            }
        };
        // Without a thread the export does it all.
        *worker = std::thread::Builder::new().name("ahead".to_owned()).spawn(run).ok();
    }
}

impl Queue {
    /// Waits for the next layer; `None` when there will be none.
    fn next(&self) -> Option<(LayerId, Framing)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(next) = state.layers.pop_front() {
                return Some(next);
            }
            if state.closed {
                return None;
            }
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Makes the blob unless it was made before, whether or not it is still here: whoever lacks it will ask for it.
fn compress(layers: &Layers, id: &LayerId, framing: Framing, threads: usize) {
    let record = layers.record(id).ok().flatten();
    if record.is_some_and(|record| matches!(layers.known_compressed(&record, framing), Ok(None))) {
        // The export comes to the same error, and tells it.
        let _told_later = layers.compressed(id, framing, threads);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.close();
        self.stop.cancel();
        if let Some(worker) = self.worker.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _nothing_to_tell = worker.join();
        }
    }
}
