//! What is remembered of one thread of a step, and the memory that we have in its process.
//!
//! Threads may have stacks of a few bytes that others' memory lies below, so what we give to the kernel in a thread's name is
//! kept in memory of our own: a slot per thread, in the address space that it shares with its siblings.

use std::cell::RefCell;
use std::rc::Rc;

use super::program::Start;
use super::registers::Registers;

/// Bytes of a slot at least.
pub(super) const SLOT: u64 = 16 * 1024;

/// Memory of ours in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Where.
    pub(super) address: u64,
    /// Bytes.
    pub(super) length: u64,
}

/// An address space: slots that no thread uses now.
#[derive(Clone, Debug, Default)]
pub(super) struct Space {
    /// They.
    pub(super) free: Vec<Slot>,
}

/// What is to be done when a thread's call is over.
#[derive(Debug)]
pub(super) enum After {
    /// Give it back the arguments that it had; it was about these places.
    Restore(Registers, Vec<Vec<u8>>),
    /// The same, if it is still the same program; else this one has been started.
    Started(Registers, Box<Start>),
}

/// A thread.
#[derive(Debug)]
pub(super) struct Task {
    /// Its process.
    pub(super) group: i32,
    /// The program its process runs, as the step calls it.
    pub(super) program: Option<Vec<u8>>,
    /// The root directory of its process, as the step calls it without a change.
    pub(super) root: Vec<u8>,
    /// Its memory.
    pub(super) space: Rc<RefCell<Space>>,
    /// Its own part of it.
    pub(super) slot: Option<Slot>,
    /// What is to be done after the call that it is in.
    pub(super) after: Option<After>,
}

impl Task {
    /// The first of a step.
    pub(super) fn first(number: i32) -> Self {
        Self { group: number, program: None, root: Vec::new(), space: Rc::default(), slot: None, after: None }
    }

    /// One that this one made.
    pub(super) fn child(&self, group: i32, shares_memory: bool) -> Self {
        let (space, slot) = if shares_memory {
            (Rc::clone(&self.space), None)
        } else {
            (Rc::new(self.space.as_ref().clone()), self.slot)
        };
        Self { group, program: self.program.clone(), root: self.root.clone(), space, slot, after: None }
    }

    /// It has started another program: a new address space.
    pub(super) fn restarted(&mut self) {
        self.give_back();
        self.space = Rc::default();
    }

    /// It needs its slot no more.
    pub(super) fn give_back(&mut self) {
        self.space.borrow_mut().free.extend(self.slot.take());
    }

    /// A slot of at least `length` bytes, if there is one.
    pub(super) fn slot(&mut self, length: u64) -> Option<Slot> {
        if let Some(slot) = self.slot
            && slot.length >= length
        {
            return Some(slot);
        }
        let mut space = self.space.borrow_mut();
        let at = space.free.iter().position(|slot| slot.length >= length)?;
        let slot = space.free.swap_remove(at);
        space.free.extend(self.slot.replace(slot));
        Some(slot)
    }
}
