//! Job slots: how many RUNs may run at once, given to the step with the longest path behind it first.
//!
//! Knows nothing of steps but a priority. A waiter can be cancelled; a slot is given back when its guard is dropped.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cancel::{Cancel, Cancelled};

/// How often a waiter looks at the stop signal.
const POLL: Duration = Duration::from_millis(20);

/// A counting semaphore whose waiters are served by priority, then in order of arrival.
#[derive(Debug)]
pub struct Slots {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    next_ticket: u64,
    /// Waiters as (inverted priority, ticket): the first one is served next.
    waiting: BTreeSet<(u64, u64)>,
}

/// One slot; given back on drop.
#[derive(Debug)]
pub struct Slot<'a>(&'a Slots);

impl Slots {
    /// `count` slots, at least one.
    pub fn new(count: usize) -> Self {
        let state = State { free: count.max(1), next_ticket: 0, waiting: BTreeSet::new() };
        Self { state: Mutex::new(state), freed: Condvar::new() }
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
            if state.free > 0 && state.waiting.first() == Some(&me) {
                state.waiting.remove(&me);
                state.free -= 1;
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
        self.0.lock().free += 1;
        self.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn never_more_than_the_given_number_at_once() {
        let (slots, running, most) = (Slots::new(3), AtomicUsize::new(0), AtomicUsize::new(0));
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
    fn the_highest_priority_waiter_is_served_first() {
        let (slots, cancel, order) = (Slots::new(1), Cancel::new(), Mutex::new(Vec::new()));
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
        let (slots, cancel) = (Slots::new(1), Cancel::new());
        let held = slots.take(0, &cancel).expect("free");
        cancel.cancel();
        assert!(slots.take(5, &cancel).is_err());
        drop(held);
        assert!(slots.take(0, &Cancel::new()).is_ok());
    }
}
