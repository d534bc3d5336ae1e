//! Which step is next: a pure scheduler over the plan's graph.
//!
//! One owner (the driver), one enum of states per step, one method that changes it. Steps on the longest remaining path
//! come first; lengths are the durations of earlier builds. Knows no threads, no slots and no keys.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use petgraph::Direction::{Incoming, Outgoing};
use petgraph::graph::DiGraph;
use petgraph::visit::EdgeRef as _;

use crate::plan::graph::StepId;

/// What a step that was never timed is assumed to take: more than nothing, so that longer chains come first.
const UNKNOWN: Duration = Duration::from_millis(100);

/// Where a step is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Inputs are missing: so many.
    Waiting(u32),
    /// May be taken by [`Schedule::next`].
    Ready,
    /// Was taken.
    Running,
    /// Has a result.
    Done,
    /// Came to grief.
    Failed,
    /// Will not run: something it needs failed, or the build was stopped.
    Canceled,
}

/// How a running step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a result, made or found.
    Done,
    /// With an error: what depends on it will not run.
    Failed,
    /// Stopped before its end.
    Canceled,
}

/// The state of all steps of one build.
#[derive(Debug)]
pub struct Schedule {
    states: Vec<State>,
    dependents: Vec<Vec<u32>>,
    /// Nanoseconds from a step's start to the end of the build along the longest path.
    priorities: Vec<u128>,
    /// By priority, then in order of the plan.
    ready: BinaryHeap<(u128, Reverse<u32>)>,
    running: usize,
}

impl Schedule {
    /// All steps of `graph` (an edge leads from an input to what needs it); `duration` is what a step took last time.
    pub fn new<N>(graph: &DiGraph<N, ()>, duration: impl Fn(StepId) -> Option<Duration>) -> Self {
        let count = graph.node_count();
        let order =
            petgraph::algo::toposort(graph, None).expect("graph is acyclic: plan adds steps after their inputs");
        let mut priorities = vec![0; count];
        for id in order.iter().rev() {
            let after = graph.edges_directed(*id, Outgoing).map(|edge| priorities[edge.target().index()]).max();
            priorities[id.index()] = after.unwrap_or(0) + duration(*id).unwrap_or(UNKNOWN).as_nanos();
        }
        let mut schedule = Self {
            states: Vec::with_capacity(count),
            dependents: vec![Vec::new(); count],
            priorities,
            ready: BinaryHeap::new(),
            running: 0,
        };
        for id in graph.node_indices() {
            let inputs = graph.edges_directed(id, Incoming).count() as u32;
            let dependents = graph.edges_directed(id, Outgoing).map(|edge| edge.target().index() as u32);
            schedule.dependents[id.index()] = dependents.collect();
            schedule.states.push(State::Waiting(inputs));
            if inputs == 0 {
                schedule.set(id.index() as u32, State::Ready);
            }
        }
        schedule
    }

    /// Takes the most urgent ready step; `None` when there is none now.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: `None` means later, not never")]
    pub fn next(&mut self) -> Option<StepId> {
        while let Some((_, Reverse(step))) = self.ready.pop() {
            if self.states[step as usize] == State::Ready {
                self.set(step, State::Running);
                return Some(StepId::new(step as usize));
            }
        }
        None
    }

    /// Notes how a running step ended, and makes ready or cancels what waited for it.
    pub fn finish(&mut self, step: StepId, outcome: Outcome) {
        let step = step.index() as u32;
        assert_eq!(self.states[step as usize], State::Running, "only a running step ends");
        self.set(
            step,
            match outcome {
                Outcome::Done => State::Done,
                Outcome::Failed => State::Failed,
                Outcome::Canceled => State::Canceled,
            },
        );
    }

    /// How urgent a step is: nanoseconds from its start to the end of the build along the longest path.
    pub fn priority(&self, step: StepId) -> u64 {
        u64::try_from(self.priorities[step.index()]).unwrap_or(u64::MAX)
    }

    /// Starts nothing more: what does not run yet is cancelled.
    pub fn stop(&mut self) {
        for step in 0..self.states.len() as u32 {
            match self.states[step as usize] {
                State::Waiting(_) | State::Ready => self.set(step, State::Canceled),
                State::Running | State::Done | State::Failed | State::Canceled => {}
            }
        }
    }

    /// The one door: changes the state of one step and of what follows from it.
    fn set(&mut self, step: u32, state: State) {
        let before = std::mem::replace(&mut self.states[step as usize], state);
        self.running += usize::from(state == State::Running);
        self.running -= usize::from(before == State::Running);
        match state {
            State::Waiting(_) | State::Running => {}
            State::Ready => self.ready.push((self.priorities[step as usize], Reverse(step))),
            State::Done => {
                for i in 0..self.dependents[step as usize].len() {
                    let dependent = self.dependents[step as usize][i];
                    match self.states[dependent as usize] {
                        State::Waiting(1) => self.set(dependent, State::Ready),
                        State::Waiting(n) => self.set(dependent, State::Waiting(n - 1)),
                        State::Ready | State::Running | State::Done | State::Failed | State::Canceled => {}
                    }
                }
            }
            State::Failed | State::Canceled => {
                let mut lost = self.dependents[step as usize].clone();
                while let Some(dependent) = lost.pop() {
                    if let State::Waiting(_) = self.states[dependent as usize] {
                        self.states[dependent as usize] = State::Canceled;
                        lost.extend(&self.dependents[dependent as usize]);
                    }
                }
            }
        }
    }

    /// The state of a step.
    pub fn state(&self, step: StepId) -> State {
        self.states[step.index()]
    }

    /// Steps that were taken and have not ended.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Whether [`Self::next`] would return a step.
    pub fn has_ready(&self) -> bool {
        self.ready.iter().any(|(_, Reverse(step))| self.states[*step as usize] == State::Ready)
    }

    /// Whether nothing runs and nothing can run any more.
    pub fn is_over(&self) -> bool {
        self.running == 0 && !self.has_ready()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn graph(count: usize, edges: &[(usize, usize)]) -> DiGraph<(), ()> {
        let mut graph = DiGraph::new();
        for _ in 0..count {
            graph.add_node(());
        }
        for (a, b) in edges {
            graph.update_edge(StepId::new(*a), StepId::new(*b), ());
        }
        graph
    }

    #[test]
    fn the_longest_path_comes_first() {
        let graph = graph(4, &[(1, 3), (2, 3)]);
        let seconds = [5, 1, 2, 4];
        let mut schedule = Schedule::new(&graph, |step| Some(Duration::from_secs(seconds[step.index()])));
        let order: Vec<usize> = std::iter::from_fn(|| schedule.next()).map(StepId::index).collect();
        assert_eq!(order, [2, 0, 1], "2+4, 5 beats nothing but 1+4 as it stands earlier");
        assert_eq!(schedule.state(StepId::new(3)), State::Waiting(2));
    }

    #[test]
    fn failure_cancels_what_depends_on_it_and_nothing_else() {
        let graph = graph(4, &[(0, 1), (1, 2)]);
        let mut schedule = Schedule::new(&graph, |_| None);
        assert_eq!(schedule.next(), Some(StepId::new(0)));
        schedule.finish(StepId::new(0), Outcome::Failed);
        assert_eq!(schedule.state(StepId::new(2)), State::Canceled);
        assert_eq!(schedule.next(), Some(StepId::new(3)));
        schedule.finish(StepId::new(3), Outcome::Done);
        assert!(schedule.is_over());
    }

    #[test]
    fn stopping_leaves_running_steps_to_end() {
        let graph = graph(3, &[(0, 2)]);
        let mut schedule = Schedule::new(&graph, |_| None);
        let running = schedule.next().expect("ready");
        schedule.stop();
        assert_eq!(schedule.next(), None);
        assert!(!schedule.is_over());
        schedule.finish(running, Outcome::Done);
        assert!(schedule.is_over());
        assert_eq!(schedule.state(StepId::new(2)), State::Canceled);
    }

    fn any_dag() -> impl Strategy<Value = (usize, Vec<(usize, usize)>)> {
        (1..25usize).prop_flat_map(|count| {
            let edge = (0..count, 0..count).prop_map(|(a, b)| (a.min(b), a.max(b)));
            (Just(count), proptest::collection::vec(edge, 0..60))
        })
    }

    proptest! {
        #[test]
        fn each_step_runs_once_after_its_inputs(
            (count, edges) in any_dag(),
            choices in proptest::collection::vec((any::<bool>(), 0..8u8, 0..30u8), 120),
        ) {
            let edges: Vec<_> = edges.into_iter().filter(|(a, b)| a != b).collect();
            let graph = graph(count, &edges);
            let mut schedule = Schedule::new(&graph, |step| Some(Duration::from_secs(step.index() as u64 % 7)));
            let mut running: Vec<StepId> = Vec::new();
            let mut started = vec![0; count];
            let mut ended: Vec<Option<Outcome>> = vec![None; count];
            for (start, pick, fate) in choices.into_iter().cycle().take(10 * count + 120) {
                if start || running.is_empty() {
                    if let Some(step) = schedule.next() {
                        started[step.index()] += 1;
                        for (a, b) in &edges {
                            if *b == step.index() {
                                prop_assert_eq!(ended[*a], Some(Outcome::Done));
                            }
                        }
                        running.push(step);
                    }
                } else {
                    let step = running.swap_remove(pick as usize % running.len());
                    let outcome = if fate == 0 { Outcome::Failed } else { Outcome::Done };
                    ended[step.index()] = Some(outcome);
                    schedule.finish(step, outcome);
                }
                prop_assert_eq!(schedule.running(), running.len());
            }
            for step in running.drain(..) {
                ended[step.index()] = Some(Outcome::Done);
                schedule.finish(step, Outcome::Done);
            }
            while let Some(step) = schedule.next() {
                started[step.index()] += 1;
                ended[step.index()] = Some(Outcome::Done);
                schedule.finish(step, Outcome::Done);
            }
            prop_assert!(schedule.is_over());
            for (index, times) in started.iter().enumerate() {
                let lost = schedule.state(StepId::new(index)) == State::Canceled;
                let input_lost = edges.iter().any(|(a, b)| *b == index && ended[*a] != Some(Outcome::Done));
                prop_assert_eq!(lost, input_lost);
                prop_assert_eq!(*times, usize::from(!lost));
            }
        }
    }
}
