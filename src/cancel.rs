//! One build's stop signal: set once, seen everywhere, wakes those who sleep.
//!
//! Knows nothing of signals, steps or processes; `cli` raises it, workers poll or subscribe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A flag that goes from "running" to "cancelled" once. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<State>);

#[derive(Debug, Default)]
struct State {
    cancelled: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// The operation was cancelled; nobody should print this as a fault of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("canceled")]
pub struct Cancelled;

impl Cancel {
    /// A flag nobody has raised yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag and wakes every sleeper. Raising it again changes nothing.
    pub fn cancel(&self) {
        let _guard = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.cancelled.store(true, Ordering::SeqCst);
        self.0.wake.notify_all();
    }

    /// Whether the flag is up.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// `Err(Cancelled)` once the flag is up; for `?` between pieces of work.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// Sleeps for `duration` or until the flag is raised; `Err` in the latter case.
    pub fn sleep(&self, duration: Duration) -> Result<(), Cancelled> {
        let guard = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let _result = self
            .0
            .wake
            .wait_timeout_while(guard, duration, |()| !self.is_cancelled())
            .unwrap_or_else(PoisonError::into_inner);
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_wake_when_cancelled() {
        let cancel = Cancel::new();
        assert_eq!(cancel.check(), Ok(()));
        let other = cancel.clone();
        let sleeper = std::thread::spawn(move || other.sleep(Duration::from_secs(60)));
        cancel.cancel();
        assert_eq!(sleeper.join().expect("no panic"), Err(Cancelled));
    }
}
