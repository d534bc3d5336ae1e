//! Job slots: how many RUNs may run at once, given to the step with the longest path behind it first.
//!
//! Knows nothing of steps but a priority. A waiter can be cancelled; a slot is given back when its guard is dropped. Without
//! `--jobs` as many as there are cores always run, and more are let in as long as there is memory: steps that sleep or wait for
//! the network cost nothing, steps that would drive the machine into swapping wait.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cancel::{Cancel, Cancelled};

/// How often a waiter looks at the stop signal.
const POLL: Duration = Duration::from_millis(20);

/// However much memory there is, more processes at once only get in each other's way.
const MOST: usize = 128;

/// How many may run at once.
#[derive(Clone, Copy)]
pub enum Limit {
    /// So many (`--jobs`).
    Fixed(usize),
    /// So many always; more, up to a constant, while the function says that there is memory.
    WhileMemoryLasts {
        /// Always let in.
        always: usize,
        /// Whether one more can be let in now.
        room: fn() -> bool,
    },
}

impl std::fmt::Debug for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(count) => write!(f, "Fixed({count})"),
            Self::WhileMemoryLasts { always, .. } => write!(f, "WhileMemoryLasts({always})"),
        }
    }
}

impl Limit {
    fn admits(self, running: usize) -> bool {
        match self {
            Self::Fixed(count) => running < count.max(1),
            Self::WhileMemoryLasts { always, room } => running < always.max(1) || (running < MOST && room()),
        }
    }
}

/// A counting semaphore whose waiters are served by priority, then in order of arrival.
#[derive(Debug)]
pub struct Slots {
    limit: Limit,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    running: usize,
    next_ticket: u64,
    /// Waiters as (inverted priority, ticket): the first one is served next.
    waiting: BTreeSet<(u64, u64)>,
}

/// One slot; given back on drop.
#[derive(Debug)]
pub struct Slot<'a>(&'a Slots);

impl Slots {
    /// As many slots as `limit` says, at least one.
    pub fn new(limit: Limit) -> Self {
        let state = State { running: 0, next_ticket: 0, waiting: BTreeSet::new() };
        Self { limit, state: Mutex::new(state), freed: Condvar::new() }
    }

    /// Waits for a slot; higher `priority` goes first.
    pub fn take(&self, priority: u64, cancel: &Cancel) -> Result<Slot<'_>, Cancelled> {
        let mut state = self.lock();
        let me = (u64::MAX - priority, state.next_ticket);
        state.next_ticket += 1;
        state.waiting.insert(me);
        loop {
            if cancel.is_cancelled() {
                state.waiting.remove(&me);
                self.freed.notify_all();
                return Err(Cancelled);
            }
            if state.waiting.first() == Some(&me) && self.limit.admits(state.running) {
                state.waiting.remove(&me);
                state.running += 1;
                self.freed.notify_all();
                return Ok(Slot(self));
            }
            state = self.freed.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
        self.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn never_more_than_the_given_number_at_once() {
        let (slots, running, most) = (Slots::new(Limit::Fixed(3)), AtomicUsize::new(0), AtomicUsize::new(0));
        let cancel = Cancel::new();
        std::thread::scope(|scope| {
            for priority in 0..20 {
                let (slots, running, most, cancel) = (&slots, &running, &most, &cancel);
                scope.spawn(move || {
                    let _slot = slots.take(priority, cancel).expect("not cancelled");
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 3);
    }

    #[test]
    fn memory_decides_beyond_the_cores() {
        let limit = |room: fn() -> bool| Limit::WhileMemoryLasts { always: 2, room };
        assert!(limit(|| false).admits(1) && !limit(|| false).admits(2));
        assert!(limit(|| true).admits(2) && !limit(|| true).admits(MOST));
        assert!(Limit::Fixed(0).admits(0) && !Limit::Fixed(1).admits(1));
    }

    #[test]
    fn the_highest_priority_waiter_is_served_first() {
        let (slots, cancel, order) = (Slots::new(Limit::Fixed(1)), Cancel::new(), Mutex::new(Vec::new()));
        let held = slots.take(0, &cancel).expect("free");
        std::thread::scope(|scope| {
            for priority in [1, 9, 5] {
                let (slots, cancel, order) = (&slots, &cancel, &order);
                scope.spawn(move || {
                    let _slot = slots.take(priority, cancel).expect("not cancelled");
                    order.lock().expect("no panic").push(priority);
                });
            }
            while slots.lock().waiting.len() < 3 {
                std::thread::yield_now();
            }
            drop(held);
        });
        assert_eq!(*order.lock().expect("no panic"), [9, 5, 1]);
    }

    #[test]
    fn a_cancelled_waiter_leaves_the_queue() {
        let (slots, cancel) = (Slots::new(Limit::Fixed(1)), Cancel::new());
        let held = slots.take(0, &cancel).expect("free");
        cancel.cancel();
        assert!(slots.take(5, &cancel).is_err());
        drop(held);
        assert!(slots.take(0, &Cancel::new()).is_ok());
    }
}
